"""English abbreviations as the words that they stand for."""

from pipelines.speech.written.rules import Rule, one_of, rules, stop

TITLES = {
    "Dr": "Doctor", "Mr": "Mister", "Mrs": "Missus", "Ms": "Miz", "Prof": "Professor", "St": "Saint", "Mt": "Mount",
    "Ft": "Fort", "Gen": "General", "Lt": "Lieutenant", "Col": "Colonel", "Capt": "Captain", "Sgt": "Sergeant",
    "Maj": "Major", "Cpl": "Corporal", "Pvt": "Private", "Adm": "Admiral", "Cmdr": "Commander", "Rev": "Reverend",
    "Sen": "Senator", "Rep": "Representative", "Gov": "Governor", "Pres": "President", "Hon": "Honorable",
    "Supt": "Superintendent", "Fr": "Father",
}  # fmt: skip
STREETS = {
    "St": "Street", "Ave": "Avenue", "Av": "Avenue", "Rd": "Road", "Blvd": "Boulevard", "Ln": "Lane", "Hwy": "Highway",
    "Sq": "Square", "Pkwy": "Parkway", "Dr": "Drive", "Pl": "Place", "Ct": "Court", "Expy": "Expressway",
}  # fmt: skip
BEFORE_NUMBERS = {
    "No": "number", "no": "number", "Nos": "numbers", "nos": "numbers", "Nr": "number", "fig": "figure",
    "figs": "figures", "sec": "section", "vol": "volume", "vols": "volumes", "p": "page", "pp": "pages",
    "ch": "chapter", "eq": "equation", "eqs": "equations", "art": "article", "par": "paragraph", "para": "paragraph",
    "op": "opus", "ext": "extension", "max": "maximum", "min": "minimum", "ca": "circa",
    "tel": "telephone",
    "apt": "apartment",
}  # fmt: skip
WORDS = {
    "approx": "approximately", "dept": "department", "govt": "government", "asst": "assistant", "mgr": "manager",
    "incl": "including", "excl": "excluding", "avg": "average", "misc": "miscellaneous",
    "Jr": "Junior", "Sr": "Senior", "Inc": "Incorporated", "Ltd": "Limited", "Corp": "Corporation", "Co": "Company",
    "Bros": "Brothers", "Assn": "Association", "Intl": "International", "Univ": "University", "esp": "especially",
    "tel": "telephone", "Ph.D": "PhD", "a.k.a": "also known as", "min": "minimum", "max": "maximum",
    "viz": "namely", "cont": "continued", "appt": "appointment",
}  # fmt: skip
SLASHED = {
    "w/o": "without", "w/": "with", "b/c": "because", "c/o": "care of",
    "n/a": "not applicable", "N/A": "not applicable",
    "w/out": "without",
}  # fmt: skip


def _capital(table: dict[str, str]) -> dict[str, str]:
    """The same beside those that begin a sentence."""
    return table | {name.capitalize(): said.capitalize() for name, said in table.items() if name[0].islower()}


NUMBERED, SPELLED = _capital(BEFORE_NUMBERS), _capital(WORDS)

ABBREVIATIONS: tuple[Rule, ...] = rules(
    (rf"(?<!\w)({one_of(set(SLASHED) - {'w/'})})(?![\w/])", lambda found: SLASHED[found[1]]),
    (r"(?<![\w/])w/(?=\s?\w)\s?", "with "),
    (
        # Behind a name, where no name follows: "Elm St. is", but "St. Mary" and "Call Dr. Lee".
        rf"\b([A-Z][\w']*\s)({one_of(STREETS)})\.(?=\W*$|[,;:)]|\s+[a-z(])",
        lambda found: found[1] + STREETS[found[2]] + stop(found),
    ),
    (rf"\b(\d+\s(?:[A-Z]\w*\s){{1,3}})({one_of(STREETS)})(?=,|$)", lambda found: found[1] + STREETS[found[2]]),
    (rf"(?<=\d(?:st|nd|rd|th) )({one_of(STREETS)})\b\.?", lambda found: STREETS[found[1]] + stop(found)),
    (rf"\b({one_of(TITLES)})\.(?=\s+[A-Z])", lambda found: TITLES[found[1]]),
    (r"\b(Mr|Mrs|Ms)\.(?=\s)", lambda found: TITLES[found[1]]),
    (r"\bvs\.?(?=\s)", "versus"),
    (r"\be\.g\.,?", "for example,"),
    (r"\bi\.e\.,?", "that is,"),
    (r"\betc\.(?=\s+[^A-Z\s])", "et cetera"),
    (rf"(?<!\d[ -])(?<!\d)\b({one_of(NUMBERED)})\.\s*(?=\d)", lambda found: f"{NUMBERED[found[1]]} "),
    (rf"(?<!\d[ -])(?<!\d)\b({one_of(SPELLED)})\.", lambda found: SPELLED[found[1]] + stop(found)),
    (r"(?<=\()c\.\s?(?=\d{3})", "circa "),
    (r"\best\.(?=\s\d{4}\b)", "established"),
    (r"\best\.(?=\s[a-z\d])", "estimated"),
    (r"(?<=\w)#(?=\d)", " number "),
    (r"#(?=\d)", "number "),
    (r"(?<![\w#&])#(?=[A-Z]{1,3}-?\d)", "number "),
    (r"(?<![\w#&])#(?=[^\W\d_])", "hashtag "),
    (r"§§?\s?(?=\d)", "section "),
)
