"""Very many videos: each has one row, whatever is stopped on the way, and no innocent one is blamed."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from dynvid.data import store
from dynvid.data.store import Folder, filesystem_of, is_uri
from dynvid.data.video import VideoReader, open_video
from dynvid.errors import InputError, MissingFileError, ModeError
from dynvid.inference import Row, label_files, parts_of
from dynvid.inference.bulk import child, journal, keys, results, rows, supervisor
from dynvid.inference.bulk.child import Settings
from dynvid.inference.bulk.digests import digest_of_model
from dynvid.inference.bulk.journal import Journal
from dynvid.inference.bulk.keys import Keys, key_of
from dynvid.inference.bulk.results import MANIFEST, Results
from dynvid.inference.bulk.rows import kind_of
from dynvid.inference.bulk.supervisor import Supervisor

CHILD = Path(__file__).with_name("bulk_child.py")
PROGRAM = f"import sys, runpy; sys.path.append(sys.argv[1]); runpy.run_path({str(CHILD)!r}, run_name='child')"
ME = {"model": "sha256:1", "settings": {"precision": "auto"}, "videos": {"/v": "named"}}


def row(path, **changes):
    return Row(path, "swim", 0.5, 4, 2, 1.0, 0.75, 3.0)._replace(**changes)


def rows_in(out):
    return [each for part in parts_of(out) for each in pq.read_table(part).to_pylist()]


@pytest.fixture
def without_net(monkeypatch):
    """Processes that load no net."""
    monkeypatch.setattr(supervisor, "_PROGRAM", PROGRAM)


class TestKeys:
    @given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 50), max_size=200), st.integers(1, 20))
    def test_it_is_a_set(self, values, most):
        before, keys._MOST_NEW = keys._MOST_NEW, most
        try:
            ours, true = Keys(), set()
            for number, value in enumerate(values):
                if number % 7 == 6:
                    many = values[number - 6 : number]
                    assert ours.update(np.array(many, np.uint64)) == len({*many} - true)
                    true |= {*many}
                assert (value in ours) == (value in true)
                assert ours.add(value) == (value not in true)
                true.add(value)
            assert len(ours) == len(true)
            assert all(value in ours for value in true)
        finally:
            keys._MOST_NEW = before

    def test_names_that_are_no_utf_8_have_keys_of_their_own(self):
        names = ["/a", "/b", os.fsdecode(b"/caf\xe9"), "/caf\\xe9", os.fsdecode(b"/caf\xe8")]
        assert len({key_of(name) for name in names}) == len(names)


class TestJournal:
    @settings(deadline=None, max_examples=30)
    @given(st.lists(st.tuples(st.sampled_from(["begin", "alone", "answer", "compact", "reopen"]), st.integers(0, 5))))
    def test_what_it_holds_survives_the_process(self, deeds):
        begun, tries = set(), Counter()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "journal"
            ours = Journal(path)
            for deed, key in deeds:
                if deed == "reopen":
                    ours.close()
                    ours = Journal(path)
                elif deed == "compact":
                    ours.compact([key])
                    begun.discard(key)
                    tries.pop(key, None)
                elif deed == "answer":
                    ours.answer(key)
                    begun.discard(key)
                    tries.pop(key, None)
                else:
                    ours.begin(key, alone=deed == "alone")
                    begun.add(key)
                    tries[key] += deed == "alone"
                assert ours.begun == begun
                assert +ours.tries == +tries
            with path.open("ab") as file:
                file.write(b"+torn")
            ours.close()
            again = Journal(path)
            assert (again.begun, +again.tries) == (begun, +tries)
            again.close()

    def test_who_is_not_to_blame_is_forgiven(self, tmp_path):
        ours = Journal(tmp_path / "journal")
        for key in (1, 1, 2):
            ours.begin(key, alone=True)
        ours.begin(3)
        ours.release([1])
        ours.close()
        again = Journal(tmp_path / "journal")
        assert again.tries == {1: 1, 2: 1}
        assert 3 not in again.begun
        again.close()


class TestResults:
    def test_rows_are_kept_as_they_were(self, tmp_path):
        odd = os.fsdecode(b"/caf\xe9\n.mp4")
        given = [row("/a.mp4"), row(odd, label="two\nlines"), Row("/b.mp4", error="/b.mp4: cannot open (no video)")]
        with Results(tmp_path / "out", ME, part_rows=2) as ours:
            for each in given:
                assert ours.take(each.path)
                assert not ours.take(each.path)
                ours.add(each)
            ours.finish()
        assert [Path(part).name for part in parts_of(tmp_path / "out")] == [
            "part-000000.parquet",
            "part-000001.parquet",
        ]
        found = rows_in(tmp_path / "out")
        assert [each.pop("key") for each in found] == [key_of(each.path) for each in given]
        expected = [each._asdict() for each in given]
        expected[1]["path"] = "/caf\\udce9\n.mp4"
        assert found == expected
        assert pq.read_schema(parts_of(tmp_path / "out")[0]).equals(results.SCHEMA)
        manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
        assert manifest["finished"]
        assert sum(part["rows"] for part in manifest["parts"]) == 3
        assert ours.totals.errors == {"cannot open": 1}
        assert ours.totals.share_saved == 0.75

    def test_results_are_finished_no_more_once_there_is_more_to_do(self, tmp_path):
        def is_finished():
            return json.loads((tmp_path / MANIFEST).read_text())["finished"]

        with Results(tmp_path, ME) as ours:
            ours.take("/a")
            ours.add(row("/a"))
            ours.finish()
        with Results(tmp_path, ME) as ours:
            assert not ours.take("/a")
            assert is_finished()
            assert ours.take("/b")
            assert not is_finished()

    def test_a_part_is_written_when_it_is_due(self, tmp_path):
        with Results(tmp_path, ME, part_seconds=0) as ours:
            ours.add(row("/a"))
            assert len(parts_of(tmp_path)) == 1

    def test_what_is_done_is_not_taken_again(self, tmp_path):
        for number in range(3):
            with Results(tmp_path, ME, part_rows=2) as ours:
                assert ours.totals.videos == 2 * number
                assert [ours.take(f"/{k}") for k in range(2 * number + 2)] == [False] * 2 * number + [True] * 2
                for k in range(2 * number, 2 * number + 2):
                    ours.add(row(f"/{k}"))
        assert sorted(each["path"] for each in rows_in(tmp_path)) == [f"/{k}" for k in range(6)]
        assert not json.loads((tmp_path / MANIFEST).read_text())["finished"]

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"model": "sha256:2"}, "another model: sha256:1, now sha256:2"),
            ({"settings": {"precision": "float32"}}, "other settings: precision auto, now float32"),
            ({"videos": {"/v": "named", "/w": "named"}}, "other videos: /w not given, now named"),
        ],
    )
    def test_results_of_something_else_are_refused(self, tmp_path, change, said):
        with Results(tmp_path, ME) as ours:
            ours.add(row("/a"))
        with pytest.raises(InputError, match=f"^{tmp_path}: holds results of {said}; take another folder$"):
            Results(tmp_path, ME | change)
        with Results(tmp_path, ME) as ours:  # and the refused one has let go of the folder
            assert ours.totals.videos == 1

    def test_a_folder_without_a_row_is_anybodys(self, tmp_path):
        with Results(tmp_path, ME):
            pass
        with Results(tmp_path, ME | {"model": "sha256:2"}) as ours:
            ours.add(row("/a"))
        assert json.loads((tmp_path / MANIFEST).read_text())["model"] == "sha256:2"

    @pytest.mark.slow
    def test_a_second_process_is_refused(self, tmp_path):
        with Results(tmp_path, ME) as ours:
            code = "import sys; from dynvid.inference.bulk.results import Results; Results(sys.argv[1], {})"
            done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
            assert "another process is writing there; wait until it ends, or take another folder" in done.stderr
            ours.add(row("/a"))
        assert len(rows_in(tmp_path)) == 1

    def test_a_part_that_the_manifest_does_not_name_does_not_count(self, tmp_path):
        with Results(tmp_path, ME) as ours:
            ours.add(row("/a"))
        (tmp_path / "part-000001.parquet").write_bytes((tmp_path / "part-000000.parquet").read_bytes())
        assert len(parts_of(tmp_path)) == 1
        with Results(tmp_path, ME) as ours:
            assert not (tmp_path / "part-000001.parquet").exists()

    @pytest.mark.parametrize("damage", ["gone", "torn", "other"])
    def test_a_part_that_is_damaged_is_named(self, tmp_path, damage):
        with Results(tmp_path, ME, part_rows=1) as ours:
            for path in "/a", "/b":
                ours.add(row(path))
        first, second = map(Path, parts_of(tmp_path))
        if damage == "gone":
            second.unlink()
        elif damage == "torn":
            second.write_bytes(second.read_bytes()[:100])
        else:
            second.write_bytes(first.read_bytes())
        with pytest.raises(InputError, match=r"part-000001\.parquet: counted by manifest\.json, but cannot be read \("):
            Results(tmp_path, ME)

    @pytest.mark.parametrize(
        "content",
        [
            *("", "[]", "{}", '{"dynvid_results": 2}'),
            '{"dynvid_results": 1, "finished": true, "audit": null, "parts": [{"file": "../x"}]}',
            '{"dynvid_results": 1, "finished": true, "audit": {"x": 1}, "parts": []}',
            '{"dynvid_results": 1, "finished": true, "audit": [], "parts": []}',
        ],
    )
    def test_a_manifest_that_is_none_is_refused(self, tmp_path, content):
        (tmp_path / MANIFEST).write_text(content)
        for ask in (lambda: Results(tmp_path, ME), lambda: parts_of(tmp_path)):
            with pytest.raises(InputError, match=r"manifest\.json: no manifest of results"):
                ask()

    def test_parts_whose_manifest_is_gone_are_not_written_over(self, tmp_path):
        with Results(tmp_path, ME) as ours:
            ours.add(row("/a"))
        (tmp_path / MANIFEST).unlink()
        with pytest.raises(InputError, match=r"holds part-000000\.parquet but no manifest\.json"):
            Results(tmp_path, ME)
        with pytest.raises(MissingFileError, match="no results are there"):
            parts_of(tmp_path)

    @pytest.mark.parametrize("after", [False, True])
    @pytest.mark.parametrize("name", ["replace", "fsync"])
    def test_a_stop_at_any_point_leaves_whole_parts_and_no_row_twice(self, tmp_path, monkeypatch, name, after):
        real, countdown = getattr(os, name), [0]

        def stopped(*arguments):
            countdown[0] -= 1
            if countdown[0] == 0 and not after:
                raise KeyboardInterrupt
            real(*arguments)
            if countdown[0] == 0:
                raise KeyboardInterrupt

        monkeypatch.setattr(os, name, stopped)
        reached = 0
        for number in range(1, 40):
            out, came = tmp_path / str(number), 0
            countdown[0] = number
            try:
                with Results(out, ME, part_rows=2) as ours:
                    for came in range(1, 9):
                        ours.take(f"/{came}")
                        ours.add(row(f"/{came}"))
                    ours.finish()
                reached = number
            except KeyboardInterrupt:
                pass
            found = [each["path"] for each in rows_in(out)] if (out / MANIFEST).exists() else []
            assert found == [f"/{k}" for k in range(1, came + 1)]  # written on the way out
            countdown[0] = 0
            with Results(out, ME, part_rows=3) as ours:
                for k in range(1, 9):
                    if ours.take(f"/{k}"):
                        ours.add(row(f"/{k}"))
            assert sorted(each["path"] for each in rows_in(out)) == [f"/{k}" for k in range(1, 9)]
            if reached:
                return
        pytest.fail("never came to the end")

    def test_a_stop_at_any_line_writes_no_row_twice(self, tmp_path):
        watched = {Results.commit.__code__, Results._count_in.__code__, Results._settle.__code__}
        left = [0]

        def trace(frame, event, _):
            if frame.f_code not in watched:
                return None
            left[0] -= event == "line"
            if event == "line" and left[0] == 0:
                raise KeyboardInterrupt
            return trace

        for number in range(1, 100):
            left[0], before = number, sys.gettrace()
            try:
                with Results(tmp_path / str(number), ME, part_rows=2) as ours:
                    sys.settrace(trace)
                    for k in range(4):
                        ours.add(row(f"/{k}"))
            except KeyboardInterrupt:
                pass
            finally:
                sys.settrace(before)
            found = [each["path"] for each in rows_in(tmp_path / str(number))]
            assert found == [f"/{k}" for k in range(len(found))]
            if left[0] > 0:
                return
        pytest.fail("never came to the end")

    @pytest.mark.parametrize("after", [False, True])
    @pytest.mark.parametrize("name", ["replace", "unlink"])
    def test_rows_with_errors_are_withdrawn_at_once_or_not_at_all(self, tmp_path, monkeypatch, name, after):
        paths = [f"/{k}{' bad' * (k % 4 == 1 or k in (6, 7))}" for k in range(12)]
        with Results(tmp_path / "whole", ME, part_rows=2) as ours:  # the fourth part holds nothing but errors
            for path in paths:
                ours.add(row(path) if "bad" not in path else Row(path, error=f"{path}: no video"))
            ours.finish()
        totals, readable = ours.totals, [path for path in paths if "bad" not in path]
        real, countdown = getattr(os, name), [0]

        def stopped(*arguments, **options):
            countdown[0] -= 1
            if countdown[0] == 0 and not after:
                raise KeyboardInterrupt
            real(*arguments, **options)
            if countdown[0] == 0:
                raise KeyboardInterrupt

        monkeypatch.setattr(os, name, stopped)
        for number in range(1, 40):
            out = tmp_path / str(number)
            shutil.copytree(tmp_path / "whole", out)
            countdown[0], came = number, False
            try:
                with Results(out, ME, retry_errors=True):
                    came = True
            except KeyboardInterrupt:
                pass
            countdown[0] = 0
            found = sorted(each["path"] for each in rows_in(out))
            assert found == sorted(readable if came else found)
            assert found in (sorted(paths), sorted(readable))
            with Results(out, ME) as ours:
                assert ours.totals.videos == len(found)
            with Results(out, ME, retry_errors=True, part_rows=2) as ours:
                assert (ours.totals.videos, ours.totals.errors) == (len(readable), {})
                assert ours.totals.saved == totals.saved
                assert not json.loads((out / MANIFEST).read_text())["finished"]
                assert [path for path in paths if ours.take(path)] == [path for path in paths if "bad" in path]
                for path in paths:
                    if "bad" in path:
                        ours.add(row(path))
            assert sorted(each["path"] for each in rows_in(out)) == sorted(paths)
            assert sorted(out.glob("part-*")) == sorted(map(Path, parts_of(out)))
            if came:
                return
        pytest.fail("never came to the end")

    def test_no_part_is_written_over_whose_manifest_may_have_arrived(self, tmp_path, monkeypatch):
        written, write = [], Folder.write

        def lost(self, name, content):
            """The answer is lost: of the second part's manifest on its way back, of the third's on its way there."""
            written.append(name)
            if name == MANIFEST and written.count(MANIFEST) in (3, 4):
                if written.count(MANIFEST) == 3:
                    write(self, name, content)
                raise InputError("connection lost")
            write(self, name, content)

        monkeypatch.setattr(Folder, "write", lost)
        with Results(tmp_path, ME, part_rows=1) as ours:
            ours.add(row("/0"))
            for k in 1, 2:
                with pytest.raises(InputError, match="lost"):
                    ours.add(row(f"/{k}"))
        parts = [name for name in written if name != MANIFEST]
        assert parts == sorted(set(parts))
        assert [each["path"] for each in rows_in(tmp_path)] == ["/0", "/1", "/2"]
        with Results(tmp_path, ME) as ours:  # takes up numbers with a gap
            assert ours.totals.videos == 3
            ours.add(row("/3"))
        assert len(set(parts_of(tmp_path))) == 4
        assert sorted(tmp_path.glob("part-*")) == sorted(map(Path, parts_of(tmp_path)))

    def test_a_part_is_synced_and_its_name_too_before_the_manifest_names_it(self, tmp_path, monkeypatch):
        done, fsync, replace = [], os.fsync, os.replace
        monkeypatch.setattr(os, "fsync", lambda fd: (done.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
        monkeypatch.setattr(os, "replace", lambda old, new: (done.append((str(old), str(new))), replace(old, new)))
        with Results(tmp_path, ME) as ours:
            done.clear()
            ours.add(row("/a"))
        part, manifest = str(tmp_path / "part-000000.parquet"), str(tmp_path / MANIFEST)
        (temporary, _), (other, _) = moved = [each for each in done if isinstance(each, tuple)]
        assert [new for _, new in moved] == [part, manifest]
        assert done == [temporary, moved[0], str(tmp_path), other, moved[1], str(tmp_path)]

    @pytest.mark.slow
    def test_a_full_disk_is_one_line_and_what_was_there_stays(self, tmp_path):
        code = (
            "import resource, sys\n"
            "from dynvid.inference.bulk.results import Results, Row\n"
            "results = Results(sys.argv[1], {}, part_rows=1)\n"
            "results.add(Row('/a', 'x'))\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
            "results.add(Row('/b', 'x'))\n"
        )
        done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
        assert "part-000001.parquet: cannot be written: File too large; what was there stays" in done.stderr
        assert [each["path"] for each in rows_in(tmp_path)] == ["/a"]

    @pytest.mark.parametrize("kind", ["file", "other"])
    def test_a_full_disk_leaves_what_is_at_an_address_too(self, tmp_path, monkeypatch, kind):
        if kind == "other":  # neither this machine's file system nor object storage, as hdfs
            there = SubTreeFileSystem(str(tmp_path), LocalFileSystem())
            monkeypatch.setattr(store, "_root", lambda root, options, process: (there, "/"))
        out = f"file://{tmp_path}/out" if kind == "file" else "hdfs://host/out"
        with Results(out, ME) as ours:
            ours.add(row("/a"))
            ours.commit()
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
            try:
                with pytest.raises(InputError, match=r"manifest\.json: cannot be written"):
                    ours.store.write(MANIFEST, bytes(1000))
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
            assert [each["path"] for each in rows_in(tmp_path / "out")] == ["/a"]
            ours.add(row("/b"))
        assert [each["path"] for each in rows_in(tmp_path / "out")] == ["/a", "/b"]

    def test_an_address_of_this_machine_is_held_like_its_folder(self, tmp_path):
        with Results(f"file://{tmp_path}/out", ME):
            assert (tmp_path / "out" / ".lock").exists()
            with pytest.raises(InputError, match="another process is writing there"):
                Results(tmp_path / "out", ME)

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            ("/a 7.mp4: cannot open (Invalid data)", "cannot open"),
            ("/a 7.mp4: frame 12 could not be decoded (x)", "frame N could not be decoded"),
            ("/a 7.mp4: killed the process that read it, twice (SIGKILL)", "killed the process that read it, twice"),
            ("something else", "something else"),
        ],
    )
    def test_kinds_of_errors(self, error, kind):
        assert kind_of(Row("/a 7.mp4", error=error)) == kind

    def test_kinds_of_errors_are_so_many_at_most(self):
        sums = rows.Totals()
        for number in range(1000):
            sums.add(Row("/a", error="x" * number))
        assert sums.unreadable == 1000
        assert len(sums.errors) <= rows._MOST_KINDS + 1


@pytest.mark.usefixtures("without_net")
class TestSupervisor:
    def run(self, names, limit=60.0, **changes):
        said = []
        ours = Supervisor(Settings("net", **changes), limit, say=said.append)
        try:
            return {each.path: each for each in ours.run(names)}, said
        finally:
            ours.close()

    def test_each_video_has_the_row_that_is_its_own(self):
        names = [f"/{k}{'bad' * (k % 7 == 3)}" for k in range(1500)]
        found, said = self.run(names, batch_size=2)
        assert list(found) == names
        for name, each in found.items():
            expected = Row(name, name[::-1], 0.5, 2, len(name) % 3 + 1, 1.0, 0.75, 2.0, answered=True)
            assert each == (Row(name, error=f"{name}: no video") if "bad" in name else expected)
        assert said == ["not calibrated: every video gets full inference"]

    def test_a_video_that_kills_its_process_is_set_aside_and_no_other_is(self):
        names = [f"/{k}" for k in range(40)]
        names[0], names[17], names[18], names[39] = "/kill a", "/kill b", "/together", "/bad kill"
        found, said = self.run(names)
        assert sorted(found) == sorted(names)
        for name in names:
            killed = f"{name}: killed the process that read it, twice (SIGKILL)"
            assert found[name].error == (killed if "kill" in name else None)
        assert "the process that reads videos ended (SIGKILL) and is started anew" in said

    def test_a_video_that_hangs_is_set_aside(self):
        found, _ = self.run(["/a", "/hang", "/b"], limit=0.5)
        assert found["/hang"].error == "/hang: held up the process that read it for 0.5 s, twice"
        assert found["/a"].error is found["/b"].error is None

    def test_a_process_that_stands_still_while_videos_are_handed_out_is_ended(self):
        def names():
            yield "/stop"
            time.sleep(1)  # so that nobody takes in what comes then
            yield from (f"/{k}{'long' * 200}" for k in range(2000))

        found, _ = self.run(names(), limit=0.5)
        assert len(found) == 2001
        wrong = {name: each.error for name, each in found.items() if each.error}
        assert wrong == {"/stop": "/stop: held up the process that read it for 0.5 s, twice"}

    def test_a_model_that_is_loaded_without_end_is_said(self, monkeypatch):
        monkeypatch.setattr(supervisor, "_LOADING", 0.3)
        with pytest.raises(ModeError, match=r"cannot start \(no word for 0\.3 s\)"):
            list(Supervisor(Settings("endless"), 0.2).run(["/a"]))

    @pytest.mark.slow
    def test_a_machine_on_which_nothing_can_be_read_is_blamed_and_no_video(self, monkeypatch):
        monkeypatch.setattr(supervisor, "_MOST_IN_A_ROW", 2)
        ours, found = Supervisor(Settings("net")), []
        with pytest.raises(ModeError, match=r"2 videos in a row ended the process .* \(SIGKILL\)"):
            found.extend(ours.run([f"/kill {k}" for k in range(4)]))
        assert found == []
        assert all(count < supervisor.TRIES for count in ours._journal.tries.values())

    @pytest.mark.parametrize(
        ("video", "said"),
        [
            ("/memory", "no memory left on the GPU"),
            ("/allocate", "RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            ("/MemoryError", "MemoryError: Unable to allocate 9 GiB"),
        ],
    )
    def test_no_memory_is_no_fault_of_a_video(self, video, said):
        with pytest.raises(ModeError, match=f"{said}; fewer videos at a time"):
            self.run(["/a", video])

    @pytest.mark.slow
    def test_a_model_that_cannot_be_loaded_is_said(self):
        with pytest.raises(InputError, match=r"^unreadable: no model$"):
            list(Supervisor(Settings("unreadable")).run(["/a"]))
        with pytest.raises(ModeError, match=r"cannot start \(exit code 3\)"):
            list(Supervisor(Settings("broken")).run(["/a"]))

    def test_nothing_is_started_for_nothing(self, monkeypatch):
        monkeypatch.setattr(supervisor, "_Child", None)
        assert self.run([]) == ({}, [])

    def test_tries_of_a_process_that_was_killed_with_its_parent_count(self, tmp_path):
        path = tmp_path / "journal"
        before = Journal(path)
        before.begin(key_of("/kill"), alone=True)
        before.begin(key_of("/a"))
        before.close()
        ours = Supervisor(Settings("net"), journal=Journal(path))
        starts = []
        ours._ready = lambda ready=ours._ready: (starts.append(ours._child is None), ready())[1]
        found = {each.path: each.error for each in ours.run(["/a", "/kill", "/b"])}
        assert found.keys() == {"/a", "/kill", "/b"}
        assert found["/kill"] == "/kill: killed the process that read it, twice (SIGKILL)"
        assert found["/a"] is found["/b"] is None
        assert sum(starts) <= 2  # it was not let into company, and tried alone only once more
        ours.close()


@pytest.mark.usefixtures("without_net")
class TestLabelFiles:
    def test_each_video_once(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        videos = ["a", Path("b"), str(tmp_path / "a"), "s3://bucket/c?x", os.fsdecode(b"caf\xe9"), "./b"]
        wrong = Row("d", error="d: holds no video and no frames")
        done = label_files("net", [*videos, wrong, "bad"], "out")
        assert (done.new, done.repeated, done.totals.unreadable) == (6, 2, 2)
        here = str(tmp_path)
        expected = [f"{here}/a", f"{here}/b", "s3://bucket/c?x", f"{here}/caf\\udce9", f"{here}/d", f"{here}/bad"]
        assert sorted(each["path"] for each in rows_in("out")) == sorted(expected)
        again = label_files("net", [*videos, wrong, "bad"], "out")
        assert (again.new, again.earlier, again.totals.videos) == (0, 6, 6)
        assert again.totals.errors == done.totals.errors

    def test_a_way_back_from_behind_a_link_is_the_files_own(self, tmp_path, monkeypatch):
        (tmp_path / "far" / "inner").mkdir(parents=True)
        (tmp_path / "far" / "a.mp4").touch()
        (tmp_path / "link").symlink_to("far/inner")
        monkeypatch.chdir(tmp_path)
        label_files("net", ["link/../a.mp4"], "out")
        [found] = rows_in("out")
        assert os.path.samefile(found["path"], "far/a.mp4")

    def test_a_stop_on_purpose_keeps_what_was_done_and_blames_nobody(self, tmp_path):
        names = [f"/slow {k}" for k in range(300)]

        def stop(progress):
            if progress.new == 50:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            label_files("net", names, tmp_path, report=stop)
        assert len(rows_in(tmp_path)) == 50
        assert (tmp_path / "begun.journal").read_bytes() == b""
        assert label_files("net", names, tmp_path).new == 250
        assert sorted(each["path"] for each in rows_in(tmp_path)) == sorted(names)

    def test_an_outage_stops_the_run_and_what_could_not_be_read_then_is_done_again(self, tmp_path):
        names = [f"{tmp_path}/{k}{' share' * (k in (3, 5) or 20 <= k < 60)}" for k in range(70)]
        (tmp_path / "down").touch()
        said = r"^20 videos in a row could not be read, which is no fault of theirs \(.*Stale file handle\); once"
        with pytest.raises(ModeError, match=said):
            label_files("net", names, tmp_path / "out")
        assert [each["path"] for each in rows_in(tmp_path / "out")] == names[:20]
        assert not json.loads((tmp_path / "out" / MANIFEST).read_text())["finished"]
        (tmp_path / "down").unlink()
        done = label_files("net", names, tmp_path / "out")
        assert (done.totals.videos, done.new) == (70, 50)
        assert done.totals.errors == {"[Errno N] Stale file handle": 2}
        done = label_files("net", names, tmp_path / "out", retry_errors=True)
        assert (done.totals.videos, done.new, done.totals.errors) == (70, 2, {})
        assert sorted(each["path"] for each in rows_in(tmp_path / "out")) == sorted(names)

    def test_an_audit_goes_on_in_the_next_process_and_the_next_run(self, tmp_path):
        done = label_files("net", ["/a", "/kill", "/b"], tmp_path / "out", audit=0.5)
        assert done.audit["audited"] >= 2  # some may have been read together with the one that killed the process
        assert done.audit["said"] == f"{done.audit['audited']} audited"
        assert json.loads((tmp_path / "out" / MANIFEST).read_text())["audit"] == done.audit
        again = label_files("net", ["/a", "/kill", "/b"], tmp_path / "out", audit=0.5)
        assert again.audit == done.audit
        (tmp_path / "more").mkdir()
        listing = {"listed": "as it grows"}
        first = label_files("net", ["/a", "/b"], tmp_path / "more", audit=0.5, listing=listing)
        more = label_files("net", ["/a", "/b", "/c"], tmp_path / "more", audit=0.5, listing=listing)
        assert (first.audit["audited"], more.audit["audited"]) == (2, 3)
        assert label_files("net", ["/a"], tmp_path / "none").audit is None

    def test_a_precision_that_was_chosen_is_kept(self, tmp_path):
        def made_in():
            return json.loads((tmp_path / MANIFEST).read_text())["settings"]["precision"]

        label_files("net", ["/a"], tmp_path)
        assert made_in() == "float32"  # what auto is here
        for precision in "auto", "float32":
            label_files("net", ["/a"], tmp_path, precision=precision)
            assert made_in() == "float32"
        with pytest.raises(InputError, match="other settings: precision float32, now bfloat16"):
            label_files("net", ["/a"], tmp_path, precision="bfloat16")
        manifest = json.loads((tmp_path / MANIFEST).read_text())
        manifest["settings"]["precision"] = "bfloat16"  # as another machine's processor has it
        (tmp_path / MANIFEST).write_text(json.dumps(manifest))
        label_files("net", ["/a", "/b"], tmp_path, listing=manifest["videos"])
        assert {each["label"] for each in rows_in(tmp_path)} == {"a/", "b/ in bfloat16"}
        assert made_in() == "bfloat16"

    def test_another_model_in_the_place_of_the_first_is_refused(self, tmp_path):
        model, names = tmp_path / "net", ["/a", "/kill", "/b"]
        model.write_bytes(b"first")

        def replaced(progress):
            model.write_bytes(b"second")

        with pytest.raises(InputError, match=f"^{model}: is another model than the one that was begun with"):
            label_files(model, names, tmp_path / "out", report=replaced)
        assert [each["path"] for each in rows_in(tmp_path / "out")] != []
        model.write_bytes(b"first")
        assert label_files(model, names, tmp_path / "out").totals.videos == 3

    def test_another_list_is_refused(self, tmp_path):
        label_files("net", ["/a"], tmp_path)
        with pytest.raises(InputError, match="other videos: listed sha256:"):
            label_files("net", ["/a", "/b"], tmp_path)

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"engine": "spark"}, "local or ray"),
            ({"batch_size": 0}, "1 or more"),
            ({"workers": 0}, "1 or more"),
            ({"time_limit": 0.0}, "more than 0"),
        ],
    )
    def test_wrong_arguments(self, tmp_path, wrong, said):
        with pytest.raises(InputError, match=said):
            label_files("net", ["/a"], tmp_path / "out", **wrong)
        assert not (tmp_path / "out").exists()

    def test_what_a_model_is(self, tmp_path):
        file, folder = tmp_path / "net.ckpt", tmp_path / "net"
        folder.mkdir()
        digests = [digest_of_model("user/name")]
        for content in b"a", b"b":
            file.write_bytes(content)
            (folder / "model.safetensors").write_bytes(content)
            digests += [digest_of_model(file), digest_of_model(folder)]
        (folder / "config.json").write_bytes(b"")
        digests.append(digest_of_model(folder))
        assert len(set(digests)) == len(digests)

    @pytest.mark.slow
    def test_a_folder_by_its_address(self, tmp_path):
        out = f"file://{tmp_path}/out"
        assert label_files("net", ["/a", "/kill", "/b"], out).totals.videos == 3
        assert sorted(each["path"] for each in rows_in(tmp_path / "out")) == ["/a", "/b", "/kill"]
        assert parts_of(out) == [f"{out}/part-000000.parquet"]
        assert label_files("net", ["/a", "/kill", "/b"], out).new == 0


class TestWhoIsToBlame:
    def test_the_machine_or_the_video(self, tmp_path, monkeypatch):
        def to_blame(path, read=open_video):
            found, doubtful = child._alone(lambda source: read(source), str(path))
            assert found.error.startswith(str(path))
            return "machine" if doubtful else "video"

        (tmp_path / "bad.mp4").write_bytes(b"no video" * 100)
        (tmp_path / "frames").mkdir()
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "frames" / "1.jpg")
        whole = (tmp_path / "frames" / "1.jpg").read_bytes()
        (tmp_path / "frames" / "1.jpg").write_bytes(whole[: len(whole) // 2])
        assert to_blame(tmp_path / "gone.mp4") == "video"
        assert to_blame(tmp_path / "bad.mp4") == "video"
        assert to_blame(tmp_path / "bad.mp4" / "x.mp4") == "video"
        assert to_blame(tmp_path / "frames", lambda path: open_video(path).clip([0], 32).read([0])) == "video"
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
        try:
            assert to_blame(tmp_path / "bad.mp4") == "machine"  # too many open files
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)

        def denied(path):
            raise OSError("When reading 'a.mp4': AWS Error ACCESS_DENIED during HeadObject operation")

        assert to_blame(f"file://{tmp_path}/gone.mp4", VideoReader) == "video"
        monkeypatch.setattr(store, "filesystem_of", lambda uri: (SimpleNamespace(open_input_file=denied), "a.mp4"))
        assert to_blame("s3://bucket/a.mp4", VideoReader) == "machine"


class TestAddresses:
    def test_paths_are_taken_as_they_are(self, tmp_path):
        name = "a b%20c?#é.mp4"
        (tmp_path / name).write_bytes(b"x")
        system, path = filesystem_of(f"file://{tmp_path}/{name}")
        with system.open_input_file(path) as file:
            assert file.read() == b"x"

    def test_what_is_none_is_said(self):
        with pytest.raises(InputError, match="nowhere://a/b: pyarrow opens no such address"):
            filesystem_of("nowhere://a/b")
        assert not is_uri("/a/s3://b")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stop_by_a_signal_to_all_processes_keeps_the_rows_and_blames_nobody(tmp_path, number):
    names = [f"/slow {k}" for k in range(5000)]
    (tmp_path / "list.txt").write_text("\n".join(names))
    (tmp_path / "program.py").write_text(
        "import sys\nfrom dynvid.cli import main\nfrom dynvid.inference.bulk import supervisor\n"
        f"supervisor._PROGRAM = {PROGRAM!r}\nmain(['classify', 'net', 'list.txt', '--out', 'out'])"
    )
    command = [sys.executable, tmp_path / "program.py"]
    run = subprocess.Popen(command, start_new_session=True, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    begun = tmp_path / "out" / "begun.journal"
    while run.poll() is None and not (begun.exists() and begun.stat().st_size > 1000):
        time.sleep(0.01)
    os.killpg(run.pid, number)
    assert run.communicate()[1].endswith("dynvid: interrupted\n")
    assert run.returncode == 128 + signal.SIGINT
    assert begun.read_bytes() == b""
    assert 0 < len(rows_in(tmp_path / "out")) < 5000


@pytest.mark.slow
def test_kills_at_random_points_lose_nothing_and_double_nothing(tmp_path):
    """Without a net, so that there are many kills; `benchmarks/bulk_kills.py` does the same with one."""
    names = [f"/slow {k}{' bad' * (k % 50 == 7)}{' kill' * (k in (300, 301))}" for k in range(2000)]
    parent = (
        "import sys\nfrom dynvid.inference import label_files\nfrom dynvid.inference.bulk import supervisor\n"
        f"supervisor._PROGRAM = {PROGRAM!r}\n"
        f"label_files('net', {names!r}, sys.argv[1], part_rows=100, part_seconds=0.3)"
    )
    (tmp_path / "parent.py").write_text(parent)
    draw, kills, command = random.Random(0), 0, [sys.executable, tmp_path / "parent.py", tmp_path / "out"]
    for number in range(12):
        run = subprocess.Popen(command, start_new_session=True)
        whom = ("parent", "child", "both", "group")[number % 4]
        time.sleep(draw.uniform(0.3, 2.5))
        if run.poll() is not None:
            break
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        if children and whom in ("child", "both"):
            os.kill(int(children[0]), signal.SIGKILL)
            kills += 1
        if whom == "child":
            time.sleep(draw.uniform(0, 1))  # it goes on without, until it is killed too
        (os.killpg if whom == "group" else os.kill)(run.pid, signal.SIGKILL)
        kills += run.wait() == -signal.SIGKILL
    assert kills >= 3
    assert subprocess.run(command).returncode == 0
    found = rows_in(tmp_path / "out")
    assert sorted(each["path"] for each in found) == sorted(names)
    for each in found:
        assert ("killed the process" in (each["error"] or "")) == ("kill" in each["path"])
    assert journal.Journal(tmp_path / "out" / "begun.journal").tries == {}
