"""The transcripts in docs/metal.md are those of today's commands."""

import transcript

from vidcloud.cli.metal import metal


def asked(begin, end, prompt):
    """What was asked for in one of the document's transcripts."""
    told = transcript.DOCUMENT.read_text().partition(begin)[2].partition(end)[0]
    return [line.removeprefix(prompt) for line in told.splitlines() if line.startswith(prompt)]


def test_it_has_all_commands():
    assert {words.split()[0] for words, _ in transcript.COMMANDS} == set(metal.commands)


def test_it_was_made_with_these_commands():
    """``python tests/integration/metal/transcript.py`` makes it anew."""
    assert asked(transcript.BEGIN, transcript.END, "$ vidcloud metal ") == [words for words, _ in transcript.COMMANDS]
    door = asked(transcript.DOOR_BEGIN, transcript.DOOR_END, "$ aws ec2 ")
    for told, (words, _) in zip(door, transcript.DOOR_COMMANDS, strict=True):
        before, _, after = words.partition("{ids}")
        assert told.startswith(before), "made anew?"
        assert told.endswith(after), "made anew?"
