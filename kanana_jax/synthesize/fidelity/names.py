"""Names in a text: capitals inside sentences, quoted titles, Korean persons and places, code.

Hangul has no capitals, so Korean names are told by a surname of three syllables in all, or by a
title or a kind of place behind them. What a name is depends on no model and is a guess.
"""

import re

from kanana_jax.synthesize import chunks
from kanana_jax.synthesize.fidelity import words as lists

_CODE = re.compile(r"`([^`\n]+)`|(\b[A-Za-z]+_\w+|\b\w+\(\)|(?<!\S)--[a-z][\w-]+)")
_CAPITAL = re.compile(r"(?<![\w'])[A-Z][A-Za-z\u00c0-\u024f]*(?:-[A-Z][a-z]+)*(?:'s)?(?![\w])")
# Capitals that name nothing of the text's own; months are told apart below.
_COMMON = frozenset(
    lists.listed("""
    i a an the this that these those it its he she they we you his her their our my your in on
    at by for from to of and or but so as if when while where what which who why how is are was
    were there here not no yes all some many most each every both after before during since
    until although because however therefore question answer step steps note summary table
    overview key facts fact mr mrs ms dr prof q monday tuesday wednesday thursday friday
    saturday sunday internet earth sun moon english
""")
)
MONTHS = {
    name: number
    for number, name in enumerate(
        lists.listed("""
    january february march april may june july august september october november december
"""), start=1,
    )
}  # fmt: skip
_MONTH = re.compile(
    rf"\b({'|'.join(MONTHS)}|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)\b\.?", re.IGNORECASE
)
_ISO_DATE = re.compile(r"\b\d{4}-(\d{2})-\d{2}\b")
_KOREAN_MONTH = re.compile(r"(?<!\d)(\d{1,2})\s?월")
_KOREAN_MONTH_WORDS = {"일월": 1, "이월": 2, "삼월": 3, "사월": 4, "오월": 5, "유월": 6, "칠월": 7,
                       "팔월": 8, "구월": 9, "시월": 10, "십일월": 11, "십이월": 12}  # fmt: skip
_KOREAN_MONTH_WORD = re.compile(rf"(?<![가-힣])({'|'.join(_KOREAN_MONTH_WORDS)})")
_SURNAMES = "김이박최정강조윤장임한오서신권황안송류전홍고문양손배백허유남심노하곽성차주우구민"
# Syllables that given names are mostly of; words that look like a name are mostly not.
_GIVEN = (
    "민서준은영지우현진성호연희정경미선수철혜원아윤도하예나라재석훈빈태승주환규용상동건찬근범욱한결"
    "솔봄별슬기란숙순옥"
)
_NO_PERSON = frozenset(
    lists.listed("""
    이동한 주민은 주인은 한지는 정원은 조용한 안정한 민주주
""")
)
_PARTICLE = (
    "(?:은|는|이|가|을|를|의|와|과|도|에게|에서|에|께서|으로|로|이라는|라는|이라고|라고|까지|부터|만|"
    "이나|나|처럼|보다|이며|며|이다|였다|이었다|입니다|이고|고|한테|이란|란)?"
)
_TITLE = (
    "(?:씨|님|교수|박사|감독|작가|선수|대표|시장|화가|의사|선생|기자|장군|"
    "왕|여사|소장|관장|사장|과장|팀장|연구원|시인|건축가|농부|사육사|기관사|학생)"
)
_TITLED = re.compile(
    rf"(?<![가-힣])([{_SURNAMES}][가-힣]{{1,2}})\s?{_TITLE}(?:{_PARTICLE})(?![가-힣])"
)
_PERSON = re.compile(rf"(?<![가-힣])([{_SURNAMES}][{_GIVEN}]{{2}}){_PARTICLE[:-1]}(?![가-힣])")
_PLACE = re.compile(
    rf"(?<![가-힣])([가-힣]{{2,}}(?:시|군|구|읍|강|산|섬|역|항|교|호수|대학교|대학|공원|박물관|미술관|병원|은행|시장|"
    rf"초등학교|중학교|고등학교|광역시|특별시|연구소|도서관|사|궁|천|전자|자동차|식물원|동물원|댐))(?:{_PARTICLE})(?![가-힣])"
)
_PROVINCE = re.compile(r"(?<![가-힣])((?:제주|경기|강원|충청[남북]|전라[남북]|경상[남북])도)")
_PLACE_ENDS_IN_WORDS = frozenset(
    lists.listed("""
    다시 역시 도시 신도시 대도시 생산 재산 부동산 예산 지역 건강 친구 연구 지구 요구 도구 인구
    학교 종교 비교 초등학교 중학교 고등학교 대학교 공원 박물관 병원 은행 도서관 전시 즉시 동시
    임시 당시 표시 감시 무시 회사 조사 행사 기사 검사 의사 역사 공사 군사 식사 이사 교사 간호사
    요리사 사육사 기관사 판매사 신문사 여행사 출판사 방송사 항공사 국가산 구역 영역 번역 수역
    전역 의역 하천 실천 추천 온천 개천 공항 사항 저항 영향 조항 동네시장 전통시장 국제시장 시장
    주식시장 유산 문화유산 화산 빙산 계산 출산 증산 대량생산 입구 출구 창구 욕구 탐구 야구 축구
    농구 배구 전자 자동차 전기자동차 사용자 식물원 동물원 미술관 연구소 호수 인공호수 정수
    다음역 환승역 기차역 지하철역 종착역 간이역 광장역 이전역 국립대학 전문대학 국립대학교
    국립공원 놀이공원 도시공원 국립박물관 지역박물관 시립도서관 공공도서관 작은도서관
""")
)
# Cities, provinces and countries, which a rewrite keeps.
_GAZETTEER = lists.listed("""
    서울 부산 대구 인천 광주 대전 울산 세종 수원 성남 고양 용인 부천 안산 안양 평택 파주 김포
    춘천 원주 강릉 속초 동해 태백 청주 충주 제천 천안 아산 공주 서산 전주 군산 익산 정읍 남원
    목포 여수 순천 나주 포항 경주 김천 안동 구미 창원 진주 통영 사천 김해 밀양 거제 양산 제주
    서귀포 독도 울릉도 경기도 강원도 평양 개성 한국 북한 미국 중국 일본 대만 인도 러시아 영국
    프랑스 독일 이탈리아 스페인 포르투갈 네덜란드 벨기에 스위스 오스트리아 스웨덴 노르웨이
    핀란드 덴마크 폴란드 체코 그리스 튀르키예 터키 이집트 브라질 멕시코 칠레 페루 아르헨티나
    캐나다 호주 뉴질랜드 베트남 태국 필리핀 인도네시아 말레이시아 싱가포르 몽골 이란 이라크
    이스라엘 우크라이나 도쿄 오사카 교토 베이징 상하이 파리 런던 베를린 로마 뉴욕 워싱턴
""")
_LISTED = re.compile(rf"(?<![가-힣])({'|'.join(_GAZETTEER)})(?:시|의)?(?:{_PARTICLE})(?![가-힣])")
# Words that only a foreign sound is written in; what has one keeps its spelling in a rewrite.
_FOREIGN = re.compile(
    "(?<![가-힣])([가-힣]{0,4}(?:[렐덴셀핼엘웰릭켈벨넬델젤펠헬팅킹드프브]|르(?=[가-힣]))[가-힣]{0,4}?"
    "|[가-힣]{1,4}[렐덴셀핼엘웰릭켈벨넬델젤펠헬팅킹])"
    f"(?:{_PARTICLE[:-1]}|(?=\\s))(?![가-힣])"
)
_NOT_FOREIGN = re.compile(
    "[게고기르는던며면므러려지니다요한운든른물뎌문막]$|브로|^(?:드|만드|프|그)|[아어여며]드$"
)
_QUOTED = re.compile(
    "['\u2018\u300a\u300c<\"\u201c]([^'\"<>\n]{2,30}?)['\u2019\u300b\u300d>\"\u201d]"
)
# Right behind a digit stands a unit.
_LATIN_IN_HANGUL = re.compile(r"(?<![A-Za-z\d])[A-Z][A-Za-z]+(?:-\d+)?")


def code(text: str) -> set[str]:
    """Spans of code, and words that can be nothing else."""
    return {match[1] or match[2] for match in _CODE.finditer(text)}


def months(text: str, language: str) -> set[int]:
    """The months that are named. "May" and "March" count where a number stands beside them."""
    found = {int(match[1]) for match in _ISO_DATE.finditer(text)}
    if language == "ko":
        found |= {int(match[1]) for match in _KOREAN_MONTH.finditer(text)}
        found |= {_KOREAN_MONTH_WORDS[word] for word in _KOREAN_MONTH_WORD.findall(text)}
        return {one for one in found if 1 <= one <= 12}
    for match in _MONTH.finditer(text):
        word = match[1].lower()
        around = text[max(match.start() - 5, 0) : match.start()] + text[match.end() :][:6]
        if word not in ("may", "march", "mar", "dec", "sep") or re.search(r"\d", around):
            found.add(next(number for name, number in MONTHS.items() if name.startswith(word[:3])))
    return found


def of(text: str, language: str) -> set[str]:
    """In lower case."""
    text = _CODE.sub(" ", text)
    return _korean(text) if language == "ko" else _latin(text)


def _latin(text: str) -> set[str]:
    found = set()
    for sentence in chunks.sentences(text):
        if _is_heading(sentence):
            continue
        begin = re.search(r"\w", sentence)
        words = list(_CAPITAL.finditer(sentence))
        for place, match in enumerate(words):
            word = match[0].removesuffix("'s")
            is_first = (
                (bool(begin) and match.start() == begin.start())
                or bool(re.search(r"[:\"\u201c|*(\n-] ?\**$", sentence[: match.start()]))
            )  # fmt: skip
            follows = words[place + 1 : place + 2]
            leads_on = bool(follows) and follows[0].start() == match.end() + 1
            if is_first and not (leads_on or word.isupper() or word[1:] != word[1:].lower()):
                continue
            if word.lower() not in _COMMON and word.lower() not in MONTHS and len(word) > 1:
                found.add(word.lower())
    return found


def _is_heading(sentence: str) -> bool:
    """A line of words that mostly have capitals, without an end."""
    line = sentence.strip(" #*\n")
    words = re.findall(r"[A-Za-z']{4,}", line)
    return line[-1:] not in '.!?"' and sum(word[0].isupper() for word in words) * 2 > len(words)


def _korean(text: str) -> set[str]:
    found = {match[1] for match in _TITLED.finditer(text)}
    found |= {match[1] for match in _PERSON.finditer(text)} - _NO_PERSON
    found |= {match[1] for match in _PLACE.finditer(text)} - _PLACE_ENDS_IN_WORDS
    found |= {match[1] for match in _LISTED.finditer(text)}
    found |= {
        one for one in _FOREIGN.findall(text) if len(one) > 1 and not _NOT_FOREIGN.search(one)
    }
    found |= {match[1] for match in _PROVINCE.finditer(text)}
    found |= {match[1] for match in _QUOTED.finditer(text)}
    found |= {match[0].lower() for match in _LATIN_IN_HANGUL.finditer(text)}
    return found
