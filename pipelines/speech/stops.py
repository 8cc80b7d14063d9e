"""Which full stops end no sentence: those of abbreviations in several languages, and of German ordinals."""

import re

# With a full stop they do not end a sentence, whatever follows.
ABBREVIATIONS = frozenset("""
    dr mr mrs ms mx prof rev hon sen rep gov gen col capt lt sgt maj cpl adm mt ft messrs mme mlle vs cf al approx dept
    est incl excl tel e.g i.e viz ca hr fr sig bzw z.b d.h u.a evtl usw sra sres dña ud uds ing lic arq av avda
""".split())  # fmt: skip # noqa: SIM905
# They do not where a number follows.
BEFORE_NUMBERS = frozenset("""
    no nos nr núm fig figs p pp vol vols ch sec art par para op eq eqs ext apt max min
    jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thur thurs fri
""".split())  # fmt: skip # noqa: SIM905
# The same for units behind a number: "6 ft. 2 in. 5".
UNITS = frozenset("in ft yd mi lb lbs oz min mins sec hr hrs".split())  # noqa: SIM905
# They do where a new sentence seems to begin.
MAYBE_LAST = frozenset("etc inc ltd co corp".split())  # noqa: SIM905
NOON = frozenset(("a.m", "p.m"))  # they do unless a time zone follows
# They do where a word follows that no name begins with: "Main St. It is", but "St. Mary".
BEFORE_NAMES = frozenset("st jr sr".split())  # noqa: SIM905
STARTERS = frozenset("""
    the a an this that these those it he she they we you i but and so or if in on at as when then there here his her its
    their our my your what who how why where while after before for from with yes no not now is are was were do does did
""".split())  # fmt: skip # noqa: SIM905
# What stands before and behind a German ordinal: "in der 2. Etage", "3. Mai".
ARTICLES = frozenset("""
    am im zum zur vom beim der die das dem den des ab seit jeder jedem jeden ihr sein mein
""".split())  # fmt: skip # noqa: SIM905
GERMAN_MONTHS = frozenset("""
    januar jänner februar märz april mai juni juli august september oktober november dezember
""".split())  # fmt: skip # noqa: SIM905
DAY = re.compile(r"[0-3]?\d")


def before_number(word: str, preceding: list[str]) -> bool:
    """Whether a full stop between this word and a number is an abbreviation's."""
    return word in BEFORE_NUMBERS or (word in UNITS and bool(preceding) and preceding[0][-1].isdigit())


def goes_on(word: str, preceding: list[str], following: str) -> bool:
    """Whether a sentence goes on behind "a.m.", "St." or a German ordinal."""
    if word in NOON:
        return len(following) > 1 and following.isupper()
    if word in BEFORE_NAMES:
        return following.lower() not in STARTERS
    if following.lower() in GERMAN_MONTHS and following.lower() not in ("april", "august", "september", "november"):
        return True
    return (
        bool(following) and bool(preceding) and preceding[0].lower() in ARTICLES and following.lower() not in STARTERS
    )
