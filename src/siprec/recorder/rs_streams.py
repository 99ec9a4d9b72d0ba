"""The media streams of a recording session: its m-lines, and which recording each belongs to."""

from __future__ import annotations

from siprec import sdp
from siprec.recorder import sdp_answer
from siprec.recorder.cs_recording import Recording
from siprec.recorder.errors import RecorderFull
from siprec.recorder.formats import codec_table
from siprec.recorder.latch import Latch
from siprec.recorder.media_stream import ReceivedStream
from siprec.recorder.rs_context import RsContext
from siprec.recorder.sdp_answer import is_numeric
from siprec.recorder.secure import keys_for
from siprec.recorder.tally import Tally


class RsStreams:
    """Opens, answers, hands over and closes the streams of one recording session."""

    def __init__(self, rs: RsContext) -> None:
        self._rs = rs
        self._resources = rs.resources
        self._clock = rs.resources.clock
        self.by_index: dict[int, ReceivedStream] = {}
        """By the index of their m-lines."""
        self.owners: dict[int, Recording] = {}
        """The recordings that they belong to, if they do."""
        self.left: dict[int, float] = {}
        """Since when (monotonic) streams that belonged to a recording belong to none."""
        self.tally = Tally()
        self._heard = self._clock.now()
        self._key_frames: set[int] = set()

    def acquire(self, description: sdp.SessionDescription, tables: list[list[str]]) -> dict[int, ReceivedStream]:
        """Open ports for all new m-lines, or for none."""
        fresh: dict[int, ReceivedStream] = {}
        ports, settings = self._resources.ports, self._resources.settings
        try:
            for index, media in enumerate(description.media):
                old = self.by_index.get(index)
                if tables[index] and (old is None or old.kind != media.kind):
                    latch = Latch(settings.learn, settings.relearn, self._clock.now())
                    fresh[index] = ReceivedStream(
                        0, index, media.kind, ports.acquire(), ports.address, self._clock, latch=latch
                    )
                    fresh[index].call_id = self._rs.call_id
        except RecorderFull:
            for line in fresh.values():
                ports.release(line.pair)
            raise
        return fresh

    def release(self, fresh: dict[int, ReceivedStream]) -> None:
        """Free what :meth:`acquire` opened: nothing comes of it."""
        for line in fresh.values():
            self._resources.ports.release(line.pair)

    def answer(
        self, index: int, media: sdp.MediaDescription, formats: list[str], fresh: dict[int, ReceivedStream], wall: float
    ) -> sdp.MediaDescription:
        """The answer to an m-line, which is opened, changed or closed with it."""
        if not formats or index in fresh:
            self.drop(index, wall)
        if not formats:
            return sdp_answer.rejected(media)
        line = fresh.get(index) or self.by_index[index]
        table, offered = sdp_answer.taken(media, formats)
        if line.table and dict(line.table) != table and index in self.owners:
            self.owners[index].hand_over(float("inf"))  # what was received so far means what it meant
        line.negotiated(table, offered)
        line.codec_names = [codec.name for codec in table.values()]
        line.label = media.label or line.label
        line.mux = media.rtcp_mux
        line.keys = keys_for(media, line.keys)
        ours = self._resources.ports.address
        connection = media.connection
        known = connection is not None and is_numeric(connection.address, ours) and connection.address.strip("0.:")
        where = (connection.address, media.port) if connection and known else None
        line.latch.signal(where, self._rs.src_address, self._clock.now())
        target = media.rtcp
        line.rtcp_target = target if target and is_numeric(target[0], ours) else None
        answer, line.fir = sdp_answer.accepted(media, formats, line.pair.port, line.keys)
        if answer.direction == "recvonly":
            line.resume(wall)
        else:
            line.pause(wall)
        if index in fresh:
            self.by_index[index] = line
            line.open(self._resources.poller)
        return answer

    def offer(self, media: list[sdp.MediaDescription]) -> None:
        """Open the audio streams that we offer ourselves, and write their ports into `media`; raises RecorderFull."""
        ports, settings = self._resources.ports, self._resources.settings
        try:
            for index, each in enumerate(media):
                latch = Latch(settings.learn, settings.relearn, self._clock.now())
                latch.signal(None, self._rs.src_address, self._clock.now())
                line = self.by_index[index] = ReceivedStream(
                    0, index, "audio", ports.acquire(), ports.address, self._clock, each.label or "", latch=latch
                )
                line.call_id = self._rs.call_id
                table = codec_table(each)
                line.negotiated(table, table)
                line.codec_names = [codec.name for codec in table.values()]
                each.port = line.pair.port
        except RecorderFull:
            self.release(self.by_index)
            self.by_index.clear()
            raise
        for line in self.by_index.values():
            line.open(self._resources.poller)

    def drop(self, index: int, wall: float) -> None:
        """Close a stream, if there is one."""
        line = self.by_index.pop(index, None)
        if line is None:
            return
        owner = self.owners.pop(index, None)
        self.tally.add(line, kept=owner is not None)
        if owner is not None:
            if not self._rs.closing:
                line.pause(wall)
            owner.leave(line)
        self.left.pop(index, None)
        self._heard = max(self._heard, line.last_media or 0.0)
        self._resources.poller.remove_reader(line.pair.rtp.fileno())
        self._resources.poller.remove_reader(line.pair.rtcp.fileno())
        line.report(self._clock.now(), last=True)
        self._resources.ports.release(line.pair)

    def move(self, index: int, recording: Recording | None, wall: float) -> None:
        """Give a stream to another recording, or to none."""
        line = self.by_index[index]
        owner = self.owners.get(index)
        if owner is recording:
            return
        if owner is not None:
            # What comes from now on is another stream, on the same socket.
            fresh = self.by_index[index] = line.successor(wall)
            owner.leave(line)
            self.tally.add(line, kept=True)
            del self.owners[index]
            self.left[index] = self._clock.now()
            line = fresh
            self._resources.poller.remove_reader(line.pair.rtp.fileno())
            self._resources.poller.remove_reader(line.pair.rtcp.fileno())
            line.open(self._resources.poller)
        if recording is not None:
            recording.add(line)
            self.owners[index] = recording
            self.left.pop(index, None)

    @property
    def silent_for(self) -> float:
        """Seconds since any stream last received RTP (since the start if none did): when it is long and nothing is
        paused, the SRC has probably died without a BYE."""
        heard = [line.last_media for line in self.by_index.values() if line.last_media is not None]
        self._heard = max([self._heard, *heard])
        return self._clock.now() - self._heard

    @property
    def wants_key_frame(self) -> bool:
        """Whether video begins whose key frame cannot be asked for by RTCP; true once for each stream (RFC 7866
        8.1.7.1.1)."""
        fresh = [i for i, line in self.by_index.items() if line.kind == "video" and line.receiving and not line.fir]
        wanted = not self._key_frames.issuperset(fresh)
        self._key_frames = set(fresh)
        return wanted
