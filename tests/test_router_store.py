"""The tree of router bundles through its door: directories and archives in, `current` here and back, signatures."""

from __future__ import annotations

import fcntl
import gzip
import io
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent import router_store
from edge_agent.errors import ConfigError, RouterError
from edge_agent.router import RouterModel
from edge_agent.router_archive import pack
from edge_agent.router_signature import new_private_key, public_key_of, sign
from tests.tiny_router import edit_card, make_tiny_router, replace_file

SHIPPED = Path(__file__).parent.parent / "router_models" / "current"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workstation's tree with three versions; tests leave it as it is."""
    tree = tmp_path_factory.mktemp("station")
    for version in ("v1", "v2", "v3"):
        make_tiny_router(tree, version=version)
    return tree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "device" / "router_models"


def tree(root: Path) -> set[str]:
    """Every file and link below a directory, hidden ones included."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir() or path.is_symlink()}


def contents(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in tree(root) if (root / name).is_file()}


# Installing


def test_a_bundle_is_installed_with_its_encoder_and_is_not_used_yet(made: Path, root: Path) -> None:
    assert router_store.install(made / "v1", root) == "v1"
    assert RouterModel.load(root / "v1").version == "v1"
    assert {Path(name).name for name in tree(root)} == {
        "router.json", "head.onnx", "model.onnx", "tokenizer.json", "encoder.json"
    }  # fmt: skip
    assert router_store.current(root) is None


def test_an_encoder_that_is_there_is_not_copied_again(made: Path, root: Path) -> None:
    router_store.install(made / "v1", root)
    before = {path: path.stat().st_ino for path in root.rglob("encoders/*/*")}
    router_store.install(made / "v2", root)
    assert {path: path.stat().st_ino for path in root.rglob("encoders/*/*")} == before
    assert [bundle.version for bundle in router_store.list_bundles(root)] == ["v1", "v2"]


def test_a_directory_and_an_archive_of_it_install_the_same(made: Path, root: Path, tmp_path: Path) -> None:
    router_store.install(made / "v1", root)
    archive = pack(made / "v1", tmp_path / "v1.tar.gz", with_encoder=True)
    router_store.install(archive, tmp_path / "other")
    assert contents(tmp_path / "other") == contents(root)
    again = pack(root / "v1", tmp_path / "again.tar.gz", with_encoder=True)
    assert again.read_bytes() == archive.read_bytes()


def test_the_shipped_router_is_updated_by_less_than_a_megabyte(tmp_path: Path) -> None:
    assert pack(SHIPPED, tmp_path / "update.tar.gz").stat().st_size < 1_000_000


def test_an_update_without_encoder_installs_where_the_encoder_is(made: Path, root: Path, tmp_path: Path) -> None:
    router_store.install(made / "v1", root)
    assert router_store.install(pack(made / "v2", tmp_path / "v2.tar.gz"), root) == "v2"
    with pytest.raises(RouterError, match="expected the bundle's encoder here .* pack the bundle with its encoder"):
        router_store.install(tmp_path / "v2.tar.gz", tmp_path / "empty")
    assert tree(tmp_path / "empty") == set()


def test_the_same_bundle_twice_is_one_and_another_under_its_name_is_refused(root: Path, tmp_path: Path) -> None:
    make_tiny_router(tmp_path / "a", version="v1")
    assert router_store.install(tmp_path / "a" / "v1", root) == router_store.install(tmp_path / "a" / "v1", root)
    edit_card(tmp_path / "a" / "v1", threshold=0.25)
    before = contents(root)
    with pytest.raises(RouterError, match="v1: a bundle of this version is here, with other content; give the new one"):
        router_store.install(tmp_path / "a" / "v1", root)
    assert contents(root) == before


def other_encoder(bundle: Path) -> None:
    model = next((bundle.parent / "encoders").glob("*/model.onnx"))
    model.write_bytes(model.read_bytes()[:-1] + b"x")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: (b / "router.json").unlink(), "router.json: expected a router's card, found none"),
        (lambda b: (b / "head.onnx").unlink(), "head.onnx: expected a file of the bundle, found none"),
        (lambda b: (b / "head.onnx").write_bytes(b"other"), "head.onnx: expected SHA-256"),
        (lambda b: replace_file(b, "head.onnx", b"\0" * 9), "head.onnx: expected an ONNX model, found something else"),
        (other_encoder, "model.onnx: expected SHA-256 .* as on the card, found"),
        (lambda b: edit_card(b, golden=[{"text": "easy", "score": 0.9}]), "self-test: expected score 0.9"),
        (lambda b: edit_card(b, version="../v1"), 'version: expected letters, digits .*, found "../v1"'),
        (lambda b: edit_card(b, version="current"), "no name the tree has for itself, found 'current'"),
        (lambda b: edit_card(b, encoder="../../etc"), "expected|files"),
    ],
)
def test_a_bundle_that_is_not_whole_leaves_the_tree_as_it_was(
    root: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    bundle = make_tiny_router(tmp_path / "a", version="v1").resolve()
    damage(bundle)
    with pytest.raises(RouterError, match=message):
        router_store.install(bundle, root)
    assert not root.exists() or tree(root) == set()


def archive_of(path: Path, *members: tuple[str, bytes, bytes]) -> Path:
    """A .tar.gz of (name, kind, content)."""
    with tarfile.open(path, "w:gz") as archive:
        for name, kind, data in members:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = kind, len(data), "/etc/passwd"
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../router.json", tarfile.REGTYPE),
        ("/etc/router.json", tarfile.REGTYPE),
        ("v1/../../router.json", tarfile.REGTYPE),
        ("v1/other.txt", tarfile.REGTYPE),
        ("v1/router.json", tarfile.SYMTYPE),
        ("v1/router.json", tarfile.LNKTYPE),
        ("v1/router.json", tarfile.FIFOTYPE),
        ("v1", tarfile.DIRTYPE),
    ],
)
def test_an_archive_may_hold_nothing_but_regular_files_of_a_bundle(
    root: Path, tmp_path: Path, name: str, kind: bytes
) -> None:
    archive = archive_of(tmp_path / "evil.tar.gz", (name, kind, b"{}" if kind == tarfile.REGTYPE else b""))
    with pytest.raises(RouterError, match="expected regular files of a bundle only, found"):
        router_store.install(archive, root)
    assert tree(tmp_path) == {"evil.tar.gz"}


def test_an_archive_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(root: Path, tmp_path: Path) -> None:
    member = tarfile.TarInfo("v1/head.onnx")
    member.size = 1 << 40
    (tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024)))
    with pytest.raises(RouterError, match="expected at most 268435456 bytes unpacked"):
        router_store.install(tmp_path / "bomb.tar.gz", root)


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        (tarfile.REGTYPE, -512),  # tarfile would read the same header again, for ever
        (tarfile.XHDTYPE, 1 << 40),  # and such a one whole into memory
        (tarfile.GNUTYPE_LONGNAME, 1 << 40),
        (tarfile.GNUTYPE_SPARSE, 0),
    ],
)
def test_a_header_that_would_keep_the_reader_busy_is_refused_by_itself(
    root: Path, tmp_path: Path, kind: bytes, size: int
) -> None:
    member = tarfile.TarInfo("v1/head.onnx")
    member.type, member.size = kind, size
    (tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024)))
    with pytest.raises(RouterError, match="expected regular files of a bundle only, found a link, .* header 'v1/head"):
        router_store.install(tmp_path / "bomb.tar.gz", root)


@pytest.mark.parametrize("names", [["v1/head.onnx"] * 2, [f"encoders/e{i}/model.onnx" for i in range(9)]])
def test_an_archive_holds_each_file_once_and_few_of_them(root: Path, tmp_path: Path, names: list[str]) -> None:
    archive = archive_of(tmp_path / "many.tar.gz", *((name, tarfile.REGTYPE, b"") for name in names))
    with pytest.raises(RouterError, match="expected 6 files at most, each once, found another"):
        router_store.install(archive, root)


@pytest.mark.parametrize("part", [0, 10, 100, 2000])
def test_a_part_of_an_archive_is_no_archive(made: Path, root: Path, tmp_path: Path, part: int) -> None:
    archive = pack(made / "v1", tmp_path / "v1.tar.gz", with_encoder=True)
    archive.write_bytes(archive.read_bytes()[:part])
    with pytest.raises(RouterError, match="expected a .tar.gz, found something else or a part"):
        router_store.install(archive, root)
    assert tree(root) == set()


def test_killed_while_it_installs_it_leaves_no_bundle_that_is_not_whole(made: Path, root: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from edge_agent import router_store, router;"
        " router.RouterModel._self_test = lambda self: os._exit(9);"  # the last thing before the rename
        f" router_store.install(Path({str(made / 'v1')!r}), Path({str(root)!r}))"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 9
    assert router_store.list_bundles(root) == []
    assert router_store.install(made / "v1", root) == "v1"
    assert [bundle.version for bundle in router_store.list_bundles(root)] == ["v1"]


def test_what_a_killed_process_left_is_cleared_away_later(made: Path, root: Path) -> None:
    left, young = root / ".incoming-abcd1234", root / "encoders" / ".tiny-efgh5678"
    for directory in (left, young):
        directory.mkdir(parents=True)
        (directory / "model.onnx").write_bytes(b"half")
    (root / ".current-99").symlink_to("v1")
    for old in (left, root / ".current-99"):
        os.utime(old, (0, 0), follow_symlinks=False)
    router_store.install(made / "v1", root)
    assert {path.name for path in root.rglob(".*")} == {young.name}


def test_one_process_at_a_time_changes_a_tree(made: Path, root: Path) -> None:
    root.mkdir(parents=True)
    installing = threading.Thread(target=router_store.install, args=(made / "v1", root))
    handle = os.open(root, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    installing.start()
    installing.join(0.2)
    assert installing.is_alive() and tree(root) == set()
    os.close(handle)
    installing.join(30)
    assert [bundle.version for bundle in router_store.list_bundles(root)] == ["v1"]


# Switching


@pytest.fixture
def installed(made: Path, root: Path) -> Path:
    for version in ("v1", "v2", "v3"):
        router_store.install(made / version, root)
    return root


def test_going_back_works_as_often_as_going_on_did(installed: Path) -> None:
    assert [router_store.switch(installed, version) for version in ("v1", "v2", "v3")] == [None, "v1", "v2"]
    assert os.readlink(installed / "current") == "v3"
    assert [router_store.roll_back(installed) for _ in range(3)] == ["v2", "v1", None]
    assert not (installed / "current").is_symlink()  # the router of the installed package decides again
    with pytest.raises(RouterError, match="expected an earlier router to go back to, found none"):
        router_store.roll_back(installed)


def test_going_back_steps_over_versions_that_were_removed(installed: Path) -> None:
    for version in ("v1", "v2", "v3"):
        router_store.switch(installed, version)
    router_store.remove(installed, "v2")
    assert router_store.roll_back(installed) == "v1"


def test_using_the_current_one_again_is_nothing_to_go_back_to(installed: Path) -> None:
    for version in ("v1", "v2", "v2"):
        router_store.switch(installed, version)
    assert router_store.roll_back(installed) == "v1"


@pytest.mark.parametrize("version", ["v9", "current", "encoders", "../v1", ""])
def test_a_version_that_is_not_there_is_refused_and_those_that_are_named(installed: Path, version: str) -> None:
    router_store.switch(installed, "v1")
    with pytest.raises(RouterError, match="expected a version that is installed, .* there are: v1, v2, v3"):
        router_store.switch(installed, version)
    assert router_store.current(installed) == "v1"


def test_a_version_that_was_damaged_since_is_not_switched_to_nor_gone_back_to(installed: Path) -> None:
    router_store.switch(installed, "v1")
    router_store.switch(installed, "v2")
    for version in ("v1", "v3"):
        (installed / version / "head.onnx").write_bytes(b"")
    with pytest.raises(RouterError, match="v3/head.onnx: expected SHA-256"):
        router_store.switch(installed, "v3")
    with pytest.raises(RouterError, match="v1/head.onnx: expected SHA-256"):
        router_store.roll_back(installed)
    assert router_store.current(installed) == "v2"


def test_what_the_file_system_refuses_is_told_and_leaves_nothing(installed: Path) -> None:
    (installed / "current").mkdir()  # by a copy that follows links
    with pytest.raises(
        RouterError, match="nothing was switched: .*/current.*: Is a directory; mend that and try again"
    ):
        router_store.switch(installed, "v1")
    assert not [path for path in installed.glob(".current*")]


def test_there_is_never_a_moment_without_a_router(installed: Path) -> None:
    router_store.switch(installed, "v1")
    switching = (
        "from pathlib import Path; from edge_agent.files import point\n"
        f"for i in range(100): point(Path({str(installed / 'current')!r}), ('v1', 'v2')[i % 2])"
    )
    with subprocess.Popen([sys.executable, "-c", switching]) as process:
        while process.poll() is None:
            assert (installed / "current" / "router.json").exists()


def test_the_current_one_is_not_removed_and_an_encoder_goes_with_its_last_bundle(made: Path, root: Path) -> None:
    for version in ("v1", "v2"):
        router_store.install(made / version, root)
    router_store.switch(root, "v1")
    with pytest.raises(RouterError, match="v1: is the current router; use another one first"):
        router_store.remove(root, "v1")
    router_store.remove(root, "v2")
    assert RouterModel.load(root / "current").version == "v1"
    (root / "current").unlink()
    router_store.remove(root, "v1")
    assert {name for name in tree(root) if not name.startswith(".")} == set()


def test_a_list_names_a_bundle_whose_card_is_broken_and_what_is_wrong(installed: Path) -> None:
    (installed / "v2" / "router.json").write_text("{")
    problems = {bundle.version: bundle.problem for bundle in router_store.list_bundles(installed)}
    assert problems["v1"] is None and "expected JSON" in str(problems["v2"])


def test_the_tree_is_the_one_the_daemon_looks_into(installed: Path, tmp_path: Path) -> None:
    state, package = tmp_path / "state", tmp_path / "clone" / "edge_agent"
    assert router_store.find_root(state, package_dir=package) == state / "router_models"
    make_tiny_router(tmp_path / "clone" / "router_models")
    assert router_store.find_root(state, package_dir=package) == tmp_path / "clone" / "router_models"
    make_tiny_router(state / "router_models")
    assert router_store.find_root(state, package_dir=package) == state / "router_models"
    assert router_store.find_root(state, configured="/srv/routers/current") == Path("/srv/routers")


@pytest.mark.parametrize("output", ["missing/v1.tar.gz", "."])
def test_a_file_that_cannot_be_written_is_named(made: Path, tmp_path: Path, output: str) -> None:
    with pytest.raises(RouterError, match="cannot be written: .*; name another file"):
        pack(made / "v1", tmp_path / output)
    assert tree(tmp_path) == set()


def test_a_tree_that_is_not_there_is_not_made_by_going_back(root: Path) -> None:
    with pytest.raises(RouterError, match="expected an earlier router to go back to, found none"):
        router_store.roll_back(root)
    assert not root.exists()


# Signatures


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two private keys."""
    directory = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        new_private_key(directory / name)
    return directory / "ours", directory / "theirs"


def test_a_signed_bundle_is_taken_with_its_signature_from_a_directory_and_an_archive(
    keys: tuple[Path, Path], tmp_path: Path
) -> None:
    bundle = make_tiny_router(tmp_path / "a", version="v1").resolve()
    sign(bundle, keys[0])
    archive = pack(bundle, tmp_path / "v1.tar.gz", with_encoder=True)
    for source, root in ((bundle, tmp_path / "b"), (archive, tmp_path / "c")):
        router_store.install(source, root, public_key=public_key_of(keys[0]))
        assert router_store.list_bundles(root)[0].signed


def test_a_bundle_that_cannot_take_a_signature_is_named(keys: tuple[Path, Path], tmp_path: Path) -> None:
    bundle = make_tiny_router(tmp_path / "a", version="v1").resolve()
    (bundle / "router.json.sig").mkdir()
    with pytest.raises(RouterError, match="router.json.sig: cannot be written: Is a directory; sign a copy"):
        sign(bundle, keys[0])


Keys = tuple[Path, Path]


def nothing(bundle: Path, keys: tuple[Path, Path]) -> None:
    pass


def by_another(bundle: Path, keys: tuple[Path, Path]) -> None:
    sign(bundle, keys[1])


def changed_since(bundle: Path, keys: tuple[Path, Path]) -> None:
    sign(bundle, keys[0])
    edit_card(bundle, threshold=0.01)


def head_changed_since(bundle: Path, keys: tuple[Path, Path]) -> None:
    sign(bundle, keys[0])
    (bundle / "head.onnx").write_bytes((bundle / "head.onnx").read_bytes() + b"\0")


def no_signature_at_all(bundle: Path, keys: tuple[Path, Path]) -> None:
    (bundle / "router.json.sig").write_bytes(b"yes, really")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (nothing, "router.json.sig: expected a signature, since router.public_key is set, found none"),
        (by_another, "router.json.sig: expected a signature of router.json by router.public_key"),
        (changed_since, "router.json.sig: expected a signature of router.json by router.public_key"),
        (head_changed_since, "head.onnx: expected SHA-256"),
        (no_signature_at_all, "router.json.sig: expected a signature of router.json by router.public_key"),
    ],
)
def test_with_a_public_key_only_what_its_other_half_signed_is_taken(
    keys: tuple[Path, Path],
    root: Path,
    tmp_path: Path,
    prepare: Callable[[Path, tuple[Path, Path]], None],
    message: str,
) -> None:
    bundle = make_tiny_router(tmp_path / "a", version="v1").resolve()
    prepare(bundle, keys)
    with pytest.raises(RouterError, match=message):
        router_store.install(bundle, root, public_key=public_key_of(keys[0]))
    assert tree(root) == set()


def test_a_signature_may_come_after_the_bundle(keys: tuple[Path, Path], root: Path, tmp_path: Path) -> None:
    bundle = make_tiny_router(tmp_path / "a", version="v1").resolve()
    router_store.install(bundle, root)
    sign(bundle, keys[0])
    router_store.install(bundle, root)
    assert router_store.switch(root, "v1", public_key=public_key_of(keys[0])) is None


def test_a_private_key_is_its_owners_alone_and_is_never_written_over(keys: tuple[Path, Path]) -> None:
    assert keys[0].stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match="expected to make a new file for the key: File exists"):
        new_private_key(keys[0])


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_file_that_is_no_key_signs_nothing(made: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ConfigError, match="expected an Ed25519 private key in PEM without a password"):
        sign(made / "v1", tmp_path / "key")


def test_without_the_library_a_public_key_is_an_error_that_names_it(made: Path, tmp_path: Path) -> None:
    (tmp_path / "cryptography").mkdir()
    (tmp_path / "cryptography" / "__init__.py").write_text("raise ImportError('not here')")
    program = (
        "from edge_agent.router import RouterModel; from edge_agent.errors import RouterError\n"
        f"try: RouterModel.load({str(made / 'v1')!r}, public_key={43 * 'a' + '='!r})\n"
        "except RouterError as error: print(error.message)"
    )
    environ = os.environ | {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parent.parent}"}
    run = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=60)
    assert "needs the package cryptography; install it with `pip install 'edge-agent[signing]'`" in run.stdout
