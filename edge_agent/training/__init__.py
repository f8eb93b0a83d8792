"""The workstation's half: learns the next router. Needs the extra [training]; no device room imports it."""
