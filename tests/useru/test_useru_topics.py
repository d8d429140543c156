from __future__ import annotations

import json
import re
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from qanchor.errors import ConfigError
from qanchor.useru.concepts import HAN, LATIN, stem, words
from qanchor.useru.topics import LifeTopic, Pool, Wording

POOL = Pool.load()
ENGLISH = [(topic.key, topic.en) for topic in POOL.topics]
CHINESE = [(topic.key, topic.zh) for topic in POOL.topics]


def roots(phrase: str) -> frozenset[str]:
    return frozenset(map(stem, phrase.split()))


def speaks_of(text: str) -> set[str]:
    """Keys of the topics that a text speaks of: whole words, singular or plural, in any order; Chinese as written."""
    said = {stem(word) for word in LATIN.findall(text.lower())}
    latin = {key for key, wording in ENGLISH if any(roots(phrase) <= said for phrase in wording.words)}
    return latin | {key for key, wording in CHINESE if any(word in text for word in wording.words)}


def test_seventy_two_topics_with_keys_of_their_own() -> None:
    keys = [topic.key for topic in POOL.topics]
    assert len(keys) == len(set(keys)) == 72
    assert len({wording.name for _, wording in ENGLISH}) == len({wording.name for _, wording in CHINESE}) == 72


@pytest.mark.parametrize(("language", "you", "mark"), [("en", "the user", "?"), ("zh", "用户", "？")])
def test_questions_ask_about_the_user_and_no_two_are_alike(language: str, you: str, mark: str) -> None:
    asked = [getattr(topic, language).questions for topic in POOL.topics]
    assert all(3 <= len(questions) <= 4 for questions in asked)
    flat = [question for questions in asked for question in questions]
    assert len(flat) == len(set(flat))
    for question in flat:
        assert you in question
        assert question.endswith(mark)
        assert "{" not in question
        assert (HAN.search(question) is None) == (language == "en"), question


def test_names_fit_into_a_sentence() -> None:
    for _, wording in ENGLISH:
        assert re.fullmatch(r"[a-z][a-z,' -]+[a-z]", wording.name), wording.name
        assert len(wording.name.split()) <= 7
    for _, wording in CHINESE:
        assert re.fullmatch(r"[\u4e00-\u9fff、]{2,12}", wording.name), wording.name


@pytest.mark.parametrize(("key", "wording"), ENGLISH, ids=[key for key, _ in ENGLISH])
def test_english_evidence_can_match_and_says_nothing_twice(key: str, wording: Wording) -> None:
    assert 12 <= len(wording.words) <= 30
    for phrase in wording.words:
        assert re.fullmatch(r"[a-z]{3,}( [a-z]{3,}){0,2}", phrase), phrase
        assert words(phrase) == set(phrase.split()), f"a stop word in {phrase!r} would be passed over"
        assert not any(roots(other) <= roots(phrase) for other in wording.words if other != phrase), phrase


@pytest.mark.parametrize(("key", "wording"), CHINESE, ids=[key for key, _ in CHINESE])
def test_chinese_evidence_can_match_and_says_nothing_twice(key: str, wording: Wording) -> None:
    assert 12 <= len(wording.words) <= 30
    for word in wording.words:
        assert re.fullmatch(r"[\u4e00-\u9fff]{2,4}", word), word
        assert sum(other in word for other in wording.words) == 1, word


def test_evidence_tells_topics_apart() -> None:
    english = Counter(root for _, wording in ENGLISH for root in map(roots, wording.words))
    chinese = Counter(word for _, wording in CHINESE for word in wording.words)
    assert max(english.values()) <= 3
    assert max(chinese.values()) <= 3
    vague = {"view", "card", "home", "order", "pay", "open", "page", "service", "account", "search", "app", "bill"}
    assert not vague & {phrase for _, wording in ENGLISH for phrase in wording.words}


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("Iron Hall yoga club (entertainment)", "fitness"),
        ("Northgate electricity payment, May", "utilities"),
        ("two-bedroom flat to rent near the river", "housing"),
        ("weekly groceries, fruit and vegetables", "groceries"),
        ("table for four at a Thai restaurant", "eating_out"),
        ("Lunch takeaway: fried rice", "takeaway"),
        ("Corner cafe, two lattes", "coffee_tea"),
        ("craft beers and a bottle of wine", "alcohol_nightlife"),
        ("waterproof jackets size M", "fashion"),
        ("refill of prescription at the pharmacy", "medicines"),
        ("appointment with the dentist", "hospital_visits"),
        ("can't sleep: insomnia remedies", "mental_wellbeing"),
        ("monthly pass, bus and metro", "public_transport"),
        ("Hillside car park, level 2", "fuel_parking"),
        ("airport taxis at night", "taxis"),
        ("sleeper trains from Vienna to Rome", "trains"),
        ("Cheap flights to Lisbon", "flights"),
        ("youth hostels in Porto", "hotels"),
        ("How long does a Schengen visa take?", "travel_papers"),
        ("natural history museums open on Monday", "sightseeing"),
        ("Tickets > Concerts > front row", "live_events"),
        ("buys several christmas garlands", "festivals"),
        ("buys wooden toy blocks for kids", "parenting"),
        ("newborn diapers, pack of 60", "baby"),
        ("bag of dog food", "pets"),
        ("CV and cover letters for a job interview", "job_hunting"),
        ("credit card repayment", "borrowing"),
        ("Login > password", "account_security"),
        ("refund for a faulty kettle", "customer_service"),
        ("50% off coupons", "promotions"),
        ("donates to the food bank: donation", "charity"),
        ("Wealth > mutual funds > buy", "investing"),
        ("the parcel's tracking number", "parcels"),
        ("is refunded by garage for vehicle tyres", "car_care"),
        ("submits an assignment before the exam", "school_exams"),
        ("Forest > plant a tree", "green_living"),
        ("奥德港电费", "utilities"),
        ("小跳外卖 | 牛肉面", "takeaway"),
        ("星光影院《长夜》", "video"),
        ("买入基金 蓝筹成长", "investing"),
        ("伊斯特拉地铁 站前路站", "public_transport"),
        ("阳光加油站", "fuel_parking"),
        ("湖畔停车场", "fuel_parking"),
        ("新生儿用什么奶瓶", "baby"),
        ("猫砂推荐", "pets"),
        ("单位代发工资", "work_salary"),
        ("北安医院 | 眼科挂号", "hospital_visits"),
        ("首尔机票", "flights"),
        ("申根签证材料", "travel_papers"),
        ("三室一厅租房 押一付三", "housing"),
        ("年货节 春节礼盒", "festivals"),
        ("顺丰快递 寄件", "parcels"),
        ("话费充值50元", "phones"),
        ("二手笔记本电脑", "second_hand"),
        ("大促会场 | 领券", "promotions"),
        ("森林 > 收能量", "green_living"),
        ("考研数学真题", "school_exams"),
        ("简历模板下载", "job_hunting"),
    ],
)
def test_evidence_in_everyday_logs(text: str, key: str) -> None:
    assert key in speaks_of(text)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("Campaigns > Big sale > view", "sightseeing"),
        ("electronics power bank", "cash_currency"),
        ("House of Verre belt price", "housing"),
        ("book a court for badminton", "public_services"),
        ("when to book a flight to Rome", "reading"),
        ("皮肤科门诊", "gaming"),
        ("公积金贷款", "investing"),
        ("清洁用品 纸巾", "pets"),
    ],
)
def test_evidence_is_not_where_a_word_means_something_else(text: str, key: str) -> None:
    assert key not in speaks_of(text)


def test_a_saved_pool_is_the_same_pool_in_the_same_bytes(tmp_path: Path) -> None:
    POOL.save(tmp_path / "own.json")
    assert Pool.load(tmp_path / "own.json") == POOL
    packaged = resources.files("qanchor.useru") / "topics.json"
    assert (tmp_path / "own.json").read_bytes() == packaged.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["own.json"]


def wording(**changes: Any) -> dict[str, Any]:
    return {"name": "tea", "questions": ["Does the user drink tea?"], "words": ["teapot"], **changes}


def topic(key: str = "tea", **changes: Any) -> dict[str, Any]:
    return {"key": key, "en": wording(), "zh": wording(), **changes}


@pytest.mark.parametrize(
    ("topics", "said"),
    [
        ([topic(), topic("milk"), topic()], r"the keys tea stand there more than once: rename"),
        ([topic(en=wording(words=[]))], r"topic tea: `en.words` is empty: give at least one"),
        ([topic(zh=wording(questions=[""]))], r"topic tea: `zh.questions.0` is empty"),
        ([topic("Green Tea")], r"topic Green Tea: `key` is no snake_case"),
        ([{"key": "tea", "en": wording()}], r"topic tea: `zh` is missing: add it"),
        ([topic(fr=wording())], r"topic tea: `fr` is not known: remove it"),
        ([topic(en=wording(words="teapot"))], r"topic tea: got 'teapot' for `en.words`"),
        ([topic(), "milk"], r"got 'milk' for `topics.1`"),
        ([], r"`topics` is empty: give at least one"),
    ],
)
def test_a_bad_pool_is_refused_with_file_topic_and_remedy(tmp_path: Path, topics: list[Any], said: str) -> None:
    file = tmp_path / "own.json"
    file.write_text(json.dumps({"topics": topics}), encoding="utf-8")
    with pytest.raises(ConfigError, match=f"own.json: {said}"):
        Pool.load(file)


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"{", "is not JSON"), (b"\xff\xfe", "is not JSON in UTF-8"), (b"[]", r"own.json: got \[\] for `the pool`")],
)
def test_a_file_that_holds_no_pool_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "own.json").write_bytes(data)
    with pytest.raises(ConfigError, match=said):
        Pool.load(tmp_path / "own.json")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"own.json \(No such file or directory\): name a JSON file"):
        Pool.load(tmp_path / "own.json")


def test_a_topic_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        LifeTopic.model_validate(topic()).key = "milk"  # type: ignore[misc]
