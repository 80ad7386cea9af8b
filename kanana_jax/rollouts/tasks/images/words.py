"""The words in the images, in English and Korean: titles, and names of things with a number."""

from typing import NamedTuple

Pair = tuple[str, str]  # English, Korean


class Kind(NamedTuple):
    """A sort of image: what it is called, what its rows are called, the numbers that they have."""

    titles: tuple[Pair, ...]
    names: tuple[Pair, ...]
    smallest: int
    largest: int
    has_total: bool  # the sum of the numbers is printed below them


_GOODS: tuple[Pair, ...] = (
    ("coffee", "커피"), ("bread", "빵"), ("tea", "차"), ("milk", "우유"), ("rice", "쌀"),
    ("apple", "사과"), ("pear", "배"), ("egg", "달걀"), ("fish", "생선"), ("soap", "비누"),
    ("salt", "소금"), ("sugar", "설탕"), ("pen", "펜"), ("paper", "종이"), ("cup", "컵"),
    ("cake", "케이크"), ("juice", "주스"), ("bean", "콩"), ("tofu", "두부"), ("noodle", "국수"),
)  # fmt: skip
_PLACES: tuple[Pair, ...] = (
    ("Seoul", "서울"), ("Busan", "부산"), ("Daegu", "대구"), ("Incheon", "인천"),
    ("Gwangju", "광주"), ("Daejeon", "대전"), ("Ulsan", "울산"), ("Sejong", "세종"),
    ("Jeju", "제주"), ("Suwon", "수원"), ("Mokpo", "목포"), ("Sokcho", "속초"),
)  # fmt: skip
_FIELDS: tuple[Pair, ...] = (
    ("room", "방"), ("floor", "층"), ("age", "나이"), ("weight", "무게"), ("height", "키"),
    ("seat", "좌석"), ("gate", "출구"), ("page", "쪽"), ("team", "조"), ("number", "번호"),
)  # fmt: skip
_MONTHS: tuple[Pair, ...] = tuple(
    (name, f"{number}월")
    for number, name in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), 1
    )
)

TOTAL: Pair = ("total", "합계")
KINDS: dict[str, Kind] = {
    "receipt": Kind((("RECEIPT", "영수증"), ("SHOP", "가게")), _GOODS, 10, 99, True),
    "table": Kind((("STOCK", "재고"), ("VISITS", "방문")), _PLACES, 10, 99, True),
    "form": Kind((("FORM", "신청서"), ("CARD", "카드")), _FIELDS, 10, 99, False),
    "bars": Kind((("SALES", "판매"), ("RAIN", "강수")), _PLACES, 1, 12, False),
    "lines": Kind((("SALES", "판매"), ("RAIN", "강수")), _MONTHS, 1, 12, False),
}
