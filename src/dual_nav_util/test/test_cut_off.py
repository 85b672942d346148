"""A recording that was cut off anywhere is read up to its last complete record."""

from pathlib import Path

import pytest

pytest.importorskip("rosbags", reason="rosbags reads and writes the recordings")

from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from dual_nav_util.cut_off import MAGIC, CutOffFile, is_cut_off
from dual_nav_util.recording import Recording

MESSAGES, CHUNK = 40, 8


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The file of a recording of MESSAGES strings, in chunks of CHUNK."""
    types = get_typestore(Stores.ROS2_KILTED)
    folder = tmp_path_factory.mktemp("bag") / "bag"
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/words", "std_msgs/msg/String", typestore=types)
        for number in range(MESSAGES):
            text = types.types["std_msgs/msg/String"](f"word {number}")
            writer.write(connection, 1000 + number, types.serialize_cdr(text, "std_msgs/msg/String"))
            if number % CHUNK == CHUNK - 1:
                writer.storage.close_chunk()
    return folder / "bag.mcap"


def times(path: Path) -> list[int]:
    with Recording(path) as recording:
        return [message.time_ns for message in recording.messages(["/words"])]


def test_a_complete_file_is_read_as_it_is(whole):
    assert not is_cut_off(whole)
    assert times(whole) == list(range(1000, 1000 + MESSAGES))


def test_wherever_it_is_cut_all_complete_chunks_are_there(whole, tmp_path):
    data = whole.read_bytes()
    counts = []
    for end in range(len(MAGIC) + 60, len(data), 97):
        path = tmp_path / "cut.mcap"
        path.write_bytes(data[:end])
        assert is_cut_off(path)
        found = times(path)
        assert found == list(range(1000, 1000 + len(found)))
        assert len(found) % CHUNK == 0
        counts.append(len(found))
    assert counts == sorted(counts)
    assert {0, CHUNK, MESSAGES} <= set(counts)
    assert path.read_bytes() == data[:end]  # reading changes nothing


def test_a_cut_off_file_is_only_read(whole):
    with pytest.raises(ValueError, match="only read"):
        CutOffFile(whole).open("wb")
