"""Names and things the templates speak of. Plain lists, written for this project."""


def _split(text: str, mark: str | None = None) -> tuple[str, ...]:
    return tuple(text.split(mark))


NAMES = _split(
    "Anouk Bela Cem Dunja Edda Farid Greta Hamo Ilka Jorin Kaia Levin Mira Nuno Oda Pavel Quirin Runa Selma Tarek Una"
    " Vito Wanda Xenia Yara Zeno Aron Britt Carlo Dilek Esra Finn Gitta Henk Ines Juri Kalle Lotte Marek Nele"
)

SURNAMES = _split(
    "Albers Brandt Castell Dorn Ebner Falk Grau Holm Imhoff Janssen Krall Lindt Moser Novak Ohm Petri Quast Reuter"
    " Sommer Thies Ulmer Vogt Wieland Zander Okafor Tanaka Silva Rossi Larsen Khan"
)

CITIES = _split("Bergen Porto Leeds Turin Malmo Graz Lyon Gdansk Cork Ghent Basel Bilbao Aarhus Tartu Split Brno")

THINGS = _split(
    "pencils marbles stickers apples plums candles buttons postcards stamps beads nails bulbs cups bricks seeds shells"
    " coins cards ribbons tiles"
)

GOODS = _split("notebook lamp kettle scarf backpack clock pan blanket radio suitcase drill vase wallet hammer mirror")

WORDS = _split(
    "lantern window garden basket copper meadow thunder pencil orange bridge planet silver button kitchen forest carpet"
    " harbor island jacket kitten ladder marble needle oyster pepper quartz rabbit saddle tunnel umpire velvet walnut"
    " yellow zipper anchor bottle candle donkey engine feather"
)

SHORT_WORDS = _split(
    "cat sun map lamp book fish ship rain gold nest door bird salt cup hat leaf rope bell frog sand milk star wolf cake"
)

ANIMALS = _split("otter falcon badger heron lynx beaver marten raven hedgehog salmon weasel bison")

FRUITS = _split("pear fig plum kiwi mango peach apricot quince cherry melon lime guava")

COLOURS = _split("red blue green white purple orange pink yellow")

ROOMS = _split("kitchen|bedroom|bathroom|hallway|study|garage|attic|living room|dining room|cellar", "|")

STREETS = _split(
    "Mill Lane|Harbour Road|Elm Street|Station Square|Garden Way|Bridge Street|Castle Hill|Quarry Road", "|"
)

# not calendar.month_name, which speaks the machine's language
MONTHS = _split("January February March April May June July August September October November December")

WEEKDAYS = _split("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")

_COUNTED = _split("ten fifteen twenty twenty-five thirty forty forty-five fifty sixty sixty-five seventy eighty ninety")

NUMBER_WORDS = dict(zip((10, 15, 20, 25, 30, 40, 45, 50, 60, 65, 70, 80, 90), _COUNTED, strict=True))
