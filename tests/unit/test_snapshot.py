#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""test_snapshot.py TEST_SNAPSHOT: opens the snapshot that the program writes as PyTorch's viewer does, and goes back
from its state through all events."""

import pickle
import pickletools
import subprocess
import sys
import tempfile
import time
import unittest

DEVICE = 2
# What torch/utils/viz/MemoryViz.js reads of protocol 2.
VIEWER_OPCODES = {"PROTO", "STOP", "APPEND", "APPENDS", "LIST", "TUPLE", "NEWFALSE", "NEWTRUE", "NONE", "BINGET",
                  "BININT", "BININT1", "BININT2", "EMPTY_DICT", "EMPTY_LIST", "LONG1", "LONG_BINGET", "MARK", "BINPUT",
                  "LONG_BINPUT", "SETITEMS", "SETITEM", "DICT", "BINUNICODE", "EMPTY_TUPLE", "TUPLE1", "TUPLE2",
                  "TUPLE3", "BINFLOAT"}
SEGMENT_KEYS = {"device", "address", "total_size", "allocated_size", "active_size", "requested_size", "stream",
                "segment_type", "segment_pool_id", "is_expandable", "frames", "blocks"}


def frame(tag, step):
    return [{"filename": "step", "line": step, "name": tag}]


class Space:
    """Ranges of addresses that are joined where they touch."""

    def __init__(self):
        self.ranges = set()

    def add(self, begin, end):
        for other in sorted(self.ranges):
            assert end <= other[0] or other[1] <= begin, "ranges overlap"
            if other[1] == begin or other[0] == end:
                self.ranges.remove(other)
                begin, end = min(begin, other[0]), max(end, other[1])
        self.ranges.add((begin, end))

    def holds(self, begin, end):
        return any(other[0] <= begin and end <= other[1] for other in self.ranges)

    def remove(self, begin, end):
        other = next(other for other in self.ranges if other[0] <= begin and end <= other[1])
        self.ranges.remove(other)
        self.ranges |= {part for part in ((other[0], begin), (end, other[1])) if part[0] < part[1]}


class Snapshot(unittest.TestCase):
    def setUp(self):
        with tempfile.TemporaryDirectory(prefix="headroom-test-") as folder:
            subprocess.run([PROGRAM, f"{folder}/snapshot.pickle"], check=True)
            with open(f"{folder}/snapshot.pickle", "rb") as file:
                self.pickle = file.read()
        self.snapshot = pickle.loads(self.pickle)
        self.events = self.snapshot["device_traces"][DEVICE]

    def test_opcodes(self):
        operations = list(pickletools.genops(self.pickle))
        self.assertEqual((operations[0][0].name, operations[0][1]), ("PROTO", 2))
        self.assertEqual(operations[-1][2], len(self.pickle) - 1)
        self.assertLessEqual({operation.name for operation, _, _ in operations}, VIEWER_OPCODES)

    def test_top_level(self):
        self.assertEqual(set(self.snapshot), {"segments", "device_traces", "allocator_settings"})
        self.assertEqual([len(trace) for trace in self.snapshot["device_traces"]], [0, 0, 13])
        self.assertEqual(self.snapshot["allocator_settings"],
                         {"expandable_segments": True, "trace_alloc_overflowed": True})

    def test_blocks_tile_segments(self):
        self.assertEqual([segment["segment_pool_id"] for segment in self.snapshot["segments"]], [(0, 0), (0, 1)])
        for segment in self.snapshot["segments"]:
            self.assertEqual(set(segment), SEGMENT_KEYS)
            self.assertEqual((segment["device"], segment["segment_type"]), (DEVICE, "large"))
            address, active, allocated, requested = segment["address"], 0, 0, 0
            for block in segment["blocks"]:
                self.assertEqual(block["address"], address)
                address += block["size"]
                active += block["size"] if block["state"].startswith("active") else 0
                allocated += block["size"] if block["state"] == "active_allocated" else 0
                requested += block["requested_size"]
            self.assertEqual(address, segment["address"] + segment["total_size"])
            self.assertEqual((active, allocated, requested),
                             (segment["active_size"], segment["allocated_size"], segment["requested_size"]))

    def test_tags_are_frames(self):
        blocks = [block for segment in self.snapshot["segments"] for block in segment["blocks"]]
        self.assertEqual([block["frames"] for block in blocks], [frame("weights", 0), [], frame("?mall", 3), []])
        tagged = {event["action"]: event["frames"] for event in self.events}
        self.assertEqual(tagged["oom"], frame("logits", 1))
        self.assertEqual(tagged["segment_map"], [])

    def test_events(self):
        for event in self.events:
            addr = "device_free" if event["action"] == "oom" else "addr"
            self.assertEqual(set(event), {"action", addr, "size", "stream", "time_us", "frames"})
            self.assertLess(abs(event["time_us"] / 1e6 - time.time()), 60)
        times = [event["time_us"] for event in self.events]
        self.assertEqual(times, sorted(times))
        oom = next(event for event in self.events if event["action"] == "oom")
        self.assertEqual((oom["device_free"], oom["size"]), (3 << 20, (100 << 20) - 12))

    def test_frees_are_pairs(self):
        for i, event in enumerate(self.events):
            if event["action"] == "free_requested":
                self.assertEqual(self.events[i + 1], {**event, "action": "free_completed"})
        self.assertEqual(sum(event["action"] == "free_completed" for event in self.events), 2)

    def test_events_lead_to_the_state(self):
        """Backwards, every block is in a segment and is freed once."""
        space, live = Space(), {}
        for segment in self.snapshot["segments"]:
            space.add(segment["address"], segment["address"] + segment["total_size"])
            live |= {block["address"]: block["requested_size"] for block in segment["blocks"]
                     if block["state"] != "inactive"}
        for event in reversed(self.events):
            action, begin, end = event["action"], event.get("addr"), event.get("addr", 0) + event["size"]
            if action == "alloc":
                self.assertEqual(live.pop(begin), event["size"])
            elif action == "free_completed":
                self.assertNotIn(begin, live)
                self.assertTrue(space.holds(begin, end))
                live[begin] = event["size"]
            elif action in ("segment_free", "segment_unmap"):
                space.add(begin, end)
            elif action in ("segment_alloc", "segment_map"):
                space.remove(begin, end)
        self.assertEqual(list(live), [self.snapshot["segments"][0]["address"]])


PROGRAM = sys.argv.pop()
unittest.main()
