"""The plain form of a tweet: the sentence that its author would have styled.

LaMP-7 histories have tweets without paraphrases, and its questions ask for an author's wording of a plain sentence. So
a user's own tweets become examples (plain form → tweet). Mentions stay, as in LaMP's questions; links, emoticons,
fillers, shouting, stretched letters, chat spellings and contractions go. Adding them back is the author's style.
"""

import html
import re

_CHAT = dict(
    line.split(" = ")
    for line in """\
2 = to
2day = today
2nite = tonight
4 = for
& = and
abt = about
awesome = great
b4 = before
bc = because
bk = back
bout = about
can't = cannot
cant = cannot
comin = coming
cos = because
cuz = because
da = the
dat = that
didn't = did not
didnt = did not
dis = this
doesn't = does not
doin = doing
don't = do not
dont = do not
em = them
goin = going
gonna = going to
gotta = have to
i = I
i'd = I would
i'll = I will
i'm = I am
i've = I have
im = I am
isn't = is not
isnt = is not
it's = it is
ive = I have
k = okay
n = and
nope = no
pls = please
plz = please
ppl = people
r = are
that's = that is
thats = that is
tho = though
thx = thanks
tmrw = tomorrow
u = you
ur = your
w = with
w/ = with
wanna = want to
we're = we are
won't = will not
wont = will not
ya = you
yea = yes
yeah = yes
yep = yes
you're = you are
youre = you are""".splitlines()
)
"""What chat spellings and contractions stand for."""
_FILLERS = frozenset(
    [
        "ah",
        "aw",
        "aww",
        "ha",
        "haha",
        "hahaha",
        "hehe",
        "hey",
        "hm",
        "hmm",
        "idk",
        "lmao",
        "lol",
        "oh",
        "omg",
        "ooh",
        "rofl",
        "smh",
        "tbh",
        "ugh",
        "um",
        "umm",
        "woo",
        "woohoo",
        "wow",
        "xd",
        "xx",
        "xxx",
        "yay",
        "yup",
    ]
)
_LINK = re.compile(r"https?://\S+")
_EMOTICON = re.compile(r"(?<!\w)[:;=8][-o*']?[)\](\[dDpP/:}{@|\\3]|<3|\*\w+\*")
_STRETCHED = re.compile(r"([^\W\d])\1{2,}")
_INTENSIFIED = re.compile(r"(\b(?:am|is|are|was|were|feel)|'(?:m|s|re)) (?:so|too|way|v|very|really)\b", re.IGNORECASE)
_PART = re.compile(r"@\w+|[\w'/&-]+|[.?!,]+")


def plain_form(tweet: str) -> str:
    """Return a tweet as a plain sentence; empty if nothing but style is in it."""
    text = html.unescape(html.unescape(tweet))
    for pattern, replacement in ((_LINK, " "), (_EMOTICON, " "), (_STRETCHED, r"\1"), (_INTENSIFIED, r"\1")):
        text = pattern.sub(replacement, text)
    sentence: list[str] = []
    begins = True
    for part in _PART.findall(text.replace("#", "")):
        if part[0] in ".?!,":
            if sentence and sentence[-1][-1] not in ".?,":
                sentence[-1] += "?" if "?" in part else "," if part == "," else "."
                begins = sentence[-1][-1] != ","
        elif word := _plain_word(part):
            sentence.append(word[:1].upper() + word[1:] if begins else word)
            begins = False
    plain = " ".join(sentence).rstrip(",")
    return plain if not plain or plain.endswith((".", "?")) else f"{plain}."


def _plain_word(word: str) -> str:
    low = word.lower()
    if low in _FILLERS or not re.search(r"[^\W_]", word.replace("&", "a")):
        return ""
    shouted = word.isupper() and len(word) > 3
    return _CHAT.get(low, low if shouted else word)
