from __future__ import annotations

import pytest

from clipper.learning import users as users_module
from clipper.learning.bloom import Bloom
from clipper.learning.experience import Experience
from clipper.learning.users import Users
from clipper.records import PolicySettings
from clipper.selection.registry import make_policy

POLICY = make_policy(PolicySettings("ucb1"))


def users(most: int = 2) -> Users:
    return Users(1, Bloom(), most)


def test_those_asked_for_last_stay() -> None:
    house = users()
    for uid in "abc":
        house.put(uid, Experience(POLICY))
        house.get("a")
    assert [uid for uid, _ in house] == ["c", "a"]


def test_whoever_has_something_unsaved_stays() -> None:
    house = users()
    house.put("dirty", Experience(POLICY)).dirty = True
    house.put("pinned", Experience(POLICY)).pins = 1
    house.put("loading", None)
    for number in range(50):
        house.put(str(number), Experience(POLICY))
    assert {"dirty", "pinned", "loading", "49"} == {uid for uid, _ in house}


def test_the_newest_stays_even_if_all_others_must() -> None:
    house = users(1)
    for number in range(4):
        house.put(str(number), Experience(POLICY)).dirty = True
    newest = house.put("newest", Experience(POLICY))
    assert house.get("newest") is newest
    assert len(house) == 5


def test_an_eviction_looks_at_a_few_only() -> None:
    house = users(10)
    for number in range(1000):
        house.put(str(number), Experience(POLICY)).dirty = True
    assert len(house) == 1000  # memory grows until the snapshot
    for _, user in house:
        user.dirty = False
    house.put("one more", Experience(POLICY))
    assert len(house) == 1001 - 8


def test_a_trim_lets_all_go_that_are_too_many() -> None:
    house = users(10)
    for number in range(100):
        house.put(str(number), Experience(POLICY)).dirty = True
    for uid, user in house:
        user.dirty = uid == "0"
        user.pins = int(uid == "1")
        if uid == "2":
            user.experience = None
    for number in range(100):
        house.get(str(number))
    house.trim()
    assert [uid for uid, _ in house] == ["0", "1", "2", *map(str, range(93, 100))]
    house.trim()
    assert len(house) == 10


def test_a_trim_leaves_all_who_must_stay() -> None:
    house = users(1)
    for number in range(5):
        house.put(str(number), Experience(POLICY)).dirty = number > 0
    house.trim()
    assert {uid for uid, _ in house} == {"1", "2", "3", "4"}


def test_anybody_may_be_kept_until_the_kept_are_counted() -> None:
    house = users()
    assert house.may_be_kept("ann")
    house.counted = True
    assert not house.may_be_kept("ann")
    house.count("ann")
    assert house.may_be_kept("ann") and not house.may_be_kept("bob")


def test_whose_experience_did_not_come_is_given_up() -> None:
    house = users()
    user = house.put("ann", None)
    user.pins = 1
    house.give_up("ann", user)
    assert house.get("ann") is user  # feedback may bring it
    user.pins = 0
    house.give_up("ann", user)
    assert house.get("ann") is None
    other = house.put("ann", Experience(POLICY))
    house.give_up("ann", other)
    house.give_up("ann", user)
    assert house.get("ann") is other


def test_who_is_being_forgotten_is_not_kept() -> None:
    house = users()
    user = house.put("ann", Experience(POLICY))
    assert house.keeps("ann", user)
    house.leaving["ann"] += 1
    assert not house.keeps("ann", user)
    house.leaving.clear()
    house.remove("ann")
    assert not house.keeps("ann", user)
    house.remove("ann")


def test_what_was_asked_before_one_was_forgotten_is_nobodys() -> None:
    house = users()
    house.put("ann", Experience(POLICY))
    house.forget("ann", 100.5)
    assert house.get("ann") is None
    assert house.has_forgotten("ann", 100.0) and not house.has_forgotten("ann", 101.0)
    assert not house.has_forgotten("bob", 100.0)
    house.forget("ann", 200.5)
    assert house.has_forgotten("ann", 101.0)
    house.leaving["bob"] += 1
    assert house.has_forgotten("bob", 300.0)


def test_of_those_forgotten_last_it_is_known_when(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users_module, "FORGOTTEN", 2)
    house = users()
    for at, uid in enumerate(["a", "b", "a", "c"], 100):
        house.forget(uid, at)
    assert [uid for uid in "abc" if house.has_forgotten(uid, 0.0)] == ["a", "c"]
