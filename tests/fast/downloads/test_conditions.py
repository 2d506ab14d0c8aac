"""What conditions and ranges mean for a file (RFC 9110 §13, §14)."""

from __future__ import annotations

import os
import time

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from graceful.downloads.conditions import FileSelection, evaluate, same_file, seconds

TAG = '"abc"'
NOW = 1_000_000_000
"""When the file was modified."""
DATE = "Sun, 09 Sep 2001 01:46:40 GMT"
BEFORE = "Sun, 09 Sep 2001 01:46:39 GMT"
AFTER = "Sun, 09 Sep 2001 01:46:41 GMT"
SIZE = 1000
WHOLE = FileSelection(200, 0, SIZE)


class Case(SynchronousTestCase):
    """A file of 1,000 bytes."""

    def judged(self, etag: str = TAG, size: int = SIZE, **fields: str) -> FileSelection:
        """How a request with these fields is answered."""
        return evaluate({name.replace("_", "-"): value for name, value in fields.items()}, etag, NOW, size)

    def status(self, etag: str = TAG, **fields: str) -> int:
        """Return the status."""
        return self.judged(etag, **fields).status


class ConditionTests(Case):
    """Whether the file is sent at all."""

    def test_sends_whole_file_without_conditions(self) -> None:
        """Without conditions it is sent whole."""
        self.assertEqual(self.judged(), WHOLE)

    def test_if_match_compares_strongly(self) -> None:
        """A file with one of these tags is sent; the comparison is strong."""
        for field in (TAG, '"x", "abc"', '"x","abc","y"', "*", " * "):
            self.assertEqual(self.judged(if_match=field), WHOLE, field)
        for field in ('"x"', 'W/"abc"', "abc", "", '"ab", "c"'):
            self.assertEqual(self.judged(if_match=field), FileSelection(412, 0, 0), field)
        for field in ('W/"abc"', TAG):
            self.assertEqual(self.status('W/"abc"', if_match=field), 412)
        self.assertEqual(self.status('W/"abc"', if_match="*"), 200)

    def test_if_unmodified_since_refuses_younger_file(self) -> None:
        """A file that is not younger than the date is sent; an invalid date is ignored."""
        for field, status in ((DATE, 200), (AFTER, 200), (BEFORE, 412), ("yesterday", 200)):
            self.assertEqual(self.status(if_unmodified_since=field), status, field)

    def test_if_none_match_compares_weakly(self) -> None:
        """A file with none of these tags is sent; the comparison is weak."""
        for field in (TAG, 'W/"abc"', '"x", W/"abc"', "*"):
            for etag in (TAG, 'W/"abc"'):
                self.assertEqual(self.status(etag, if_none_match=field), 304, field)
        for field in ('"x"', "abc", "", 'W/"x", "y"'):
            self.assertEqual(self.status(if_none_match=field), 200, field)

    def test_if_modified_since_refuses_older_file(self) -> None:
        """A file that is younger than the date is sent; an invalid date is ignored."""
        for field, status in ((DATE, 304), (AFTER, 304), (BEFORE, 200), ("0", 200), ("", 200)):
            self.assertEqual(self.status(if_modified_since=field), status, field)

    def test_evaluates_conditions_in_the_order_of_the_rfc(self) -> None:
        """If-Match before If-Unmodified-Since, these before the others, If-None-Match before If-Modified-Since."""
        self.assertEqual(self.status(if_match=TAG, if_unmodified_since=BEFORE), 200)
        self.assertEqual(self.status(if_match='"x"', if_unmodified_since=AFTER), 412)
        self.assertEqual(self.status(if_none_match='"x"', if_modified_since=AFTER), 200)
        self.assertEqual(self.status(if_none_match=TAG, if_modified_since=BEFORE), 304)
        self.assertEqual(self.status(if_match='"x"', if_none_match=TAG), 412)
        self.assertEqual(self.status(if_unmodified_since=BEFORE, if_modified_since=AFTER), 412)
        self.assertEqual(self.status(if_match=TAG, if_none_match=TAG), 304)

    def test_evaluates_conditions_before_the_range(self) -> None:
        """A range is looked at when all conditions are met."""
        self.assertEqual(self.status(range="bytes=0-9", if_match='"x"'), 412)
        self.assertEqual(self.status(range="bytes=0-9", if_none_match=TAG), 304)
        self.assertEqual(self.status(range="bytes=0-9", if_none_match='"x"', if_match=TAG), 206)
        self.assertEqual(self.status(range="bytes=2000-", if_none_match=TAG), 304)

    def test_ignores_conditions_on_an_unknown_date(self) -> None:
        """Conditions on the date are ignored for a file whose date is unknown."""
        for name in ("if-modified-since", "if-unmodified-since"):
            self.assertEqual(evaluate({name: BEFORE}, TAG, None, SIZE), WHOLE)


class RangeTests(Case):
    """Which part of it."""

    def ranged(self, field: str, size: int = SIZE) -> FileSelection:
        """How a request for a range is answered."""
        return self.judged(size=size, range=field)

    def test_selects_one_range(self) -> None:
        """A range may have both ends, only a first byte, or only a length at the end; it is cut to the file."""
        for field, first, end in (
            ("bytes=0-0", 0, 1),
            ("bytes=0-499", 0, 500),
            ("bytes=500-", 500, 1000),
            ("bytes=999-999", 999, 1000),
            ("bytes=0-", 0, 1000),
            ("bytes=-1", 999, 1000),
            ("bytes=-1000", 0, 1000),
            ("bytes=-5000", 0, 1000),
            ("bytes=900-5000", 900, 1000),
            ("bytes=0-999999999999999999", 0, 1000),
            ("BYTES=5-6", 5, 7),
            ("bytes= \t5-6 \t", 5, 7),
            ("bytes=0005-0006", 5, 7),
        ):
            self.assertEqual(self.ranged(field), FileSelection(206, first, end), field)

    def test_refuses_a_range_behind_the_end(self) -> None:
        """A range that has no byte of the file cannot be satisfied."""
        for field in ("bytes=1000-", "bytes=1000-1001", "bytes=999999999999999999-", "bytes=-0"):
            self.assertEqual(self.ranged(field), FileSelection(416, 0, 0), field)

    def test_sends_whole_file_for_malformed_or_several_ranges(self) -> None:
        """A malformed range, one in another unit, and several ranges are answered with the whole file."""
        for field in (
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=5",
            "bytes=5-4",
            "bytes=--5",
            "bytes=-5-",
            "bytes=+5-6",
            "bytes=5 - 6",
            "bytes =5-6",
            "bytes=0x5-6",
            "bytes=\u0665-6",
            "bytes=5-6\n",
            "bytes=5-6;q=1",
            "lines=5-6",
            "bytes=0-1,5-6",
            "bytes=0-1, -1",
            "bytes=0-" + "9" * 19,
            "bytes=" + "9" * 5000 + "-",
            "bytes=-" + "9" * 5000,
        ):
            self.assertEqual(self.ranged(field), WHOLE, field)

    def test_sends_empty_file_for_any_range(self) -> None:
        """An empty file has no part; a range of it is answered with 200."""
        for field in ("bytes=0-", "bytes=0-0", "bytes=-1", "bytes=5-"):
            self.assertEqual(self.ranged(field, 0), FileSelection(200, 0, 0), field)

    @given(st.text("0123456789-, =bytes", max_size=20), st.integers(0, 50))
    def test_selection_is_within_the_file(self, text: str, size: int) -> None:
        """For any text of a range, the bytes that are sent are in the file, and a part is never empty."""
        for field in (text, "bytes=" + text):
            selection = self.ranged(field, size)
            self.assertIn(selection.status, (200, 206, 416))
            self.assertTrue(0 <= selection.first <= selection.end <= size, selection)
            if selection.status == 206:
                self.assertLess(selection.first, selection.end)


class IfRangeTests(Case):
    """Whether a part is of the same file as the part that the client has."""

    def test_sends_part_of_the_same_version(self) -> None:
        """The strong tag, or exactly the date."""
        for field in (TAG, DATE, "Sunday, 09-Sep-01 01:46:40 GMT", "Sun Sep  9 01:46:40 2001"):
            self.assertEqual(self.status(range="bytes=0-9", if_range=field), 206, field)

    def test_sends_whole_file_of_another_version(self) -> None:
        """With any other validator the whole file is sent, which is never wrong."""
        for field in ('"x"', 'W/"abc"', BEFORE, AFTER, "", "abc", "yesterday", '"abc", "x"', "*"):
            self.assertEqual(self.judged(range="bytes=0-9", if_range=field), WHOLE, field)

    def test_weak_tag_never_matches(self) -> None:
        """A weak tag does not say that the bytes are the same."""
        self.assertFalse(same_file('W/"abc"', 'W/"abc"', NOW))
        self.assertFalse(same_file('"abc"', 'W/"abc"', NOW))

    def test_refuses_a_range_behind_the_end_only_of_the_same_version(self) -> None:
        """A part that is not there matters only if it would be of the same file."""
        self.assertEqual(self.status(range="bytes=2000-", if_range='"x"'), 200)
        self.assertEqual(self.status(range="bytes=2000-", if_range=TAG), 416)

    def test_date_never_matches_unknown_date(self) -> None:
        """A date in If-Range never matches a file whose date is unknown."""
        self.assertFalse(same_file("yesterday", TAG, None))
        self.assertFalse(same_file(DATE, TAG, None))
        self.assertTrue(same_file(None, TAG, None))


class DateTests(SynchronousTestCase):
    """Reading dates."""

    def test_reads_all_three_forms_in_utc(self) -> None:
        """All three forms are read (RFC 9110 §5.6.7), wherever this server stands."""
        before = os.environ.get("TZ")
        self.addCleanup(time.tzset)
        self.addCleanup(lambda: os.environ.pop("TZ") if before is None else os.environ.update(TZ=before))
        for zone in ("UTC", "America/New_York", "Asia/Kolkata"):
            os.environ["TZ"] = zone
            time.tzset()
            for date in (DATE, "Sunday, 09-Sep-01 01:46:40 GMT", "Sun Sep  9 01:46:40 2001"):
                self.assertEqual(seconds(date), NOW, date)

    def test_invalid_dates_are_none(self) -> None:
        """An invalid date is None, for each kind of error."""
        for date in (
            "",
            "0",
            "-1",
            "never",
            "Sun, 99 Sep 2001 01:46:40 GMT",
            "Sun, 09 Sep 2001 25:46:40 GMT",
            "Sun, 09 Xyz 2001 01:46:40 GMT",
            "Sun, 09 Sep 99999999999999 01:46:40 GMT",
            "Sun, 09 Sep 2001 01:46:40 +9999999999",
            "9" * 5000,
        ):
            self.assertIsNone(seconds(date), date)

    @given(st.text())
    def test_no_text_raises(self, text: str) -> None:
        """Nothing that a client sends raises."""
        seconds(text)
        evaluate({"if-modified-since": text, "if-match": text, "range": text, "if-range": text}, TAG, NOW, SIZE)
        evaluate({"if-none-match": text, "if-unmodified-since": text, "range": text}, TAG, NOW, SIZE)
