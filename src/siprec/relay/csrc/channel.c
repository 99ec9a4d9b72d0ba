/* One direction of media. The rules are those of siprec.relay.rtp_stream, which says what they are for. */
#include "relay.h"

#include <errno.h>
#include <string.h>

#define MAX_DROPOUT 3000 /* RFC 3550 A.1 */
#define PAUSE 0.2        /* seconds; and what a clock of 8000 Hz counts in them: DTX or comfort noise is in use */
#define PAUSE_UNITS 1600

static void remember(Channel *channel, uint32_t ssrc)
{
    for (int i = 0; i < channel->ssrc_count; i++)
        if (channel->ssrcs[i] == ssrc)
            return;
    if (channel->ssrc_count == MAX_SSRCS) {
        memmove(channel->ssrcs, channel->ssrcs + 1, (MAX_SSRCS - 1) * sizeof *channel->ssrcs);
        channel->ssrc_count--;
    }
    channel->ssrcs[channel->ssrc_count++] = ssrc;
}

void channel_resequence(Channel *channel, uint16_t seq, uint32_t ssrc)
{
    if (channel->ssrc != (int64_t)ssrc || channel->next_seq < 0) {
        channel->ssrc = (int64_t)ssrc;
        remember(channel, ssrc);
    } else {
        uint16_t ahead = (uint16_t)(seq - (uint16_t)channel->next_seq);
        if (ahead >= 0x8000) {
            channel->late++;
            return;
        }
        if (ahead <= MAX_DROPOUT)
            channel->gaps += ahead;
    }
    channel->next_seq = (uint16_t)(seq + 1);
}

/* False: not sent; the reason, if there is one worth counting, is counted. */
static bool forward(Channel *channel, const uint8_t *packet, size_t size)
{
    const Channel *peer = channel->peer;
    if (channel->target.length == 0 || peer == NULL || peer->fd < 0)
        return false;
    if (sendto(peer->fd, packet, size, MSG_DONTWAIT | MSG_NOSIGNAL, &channel->target.of.any, channel->target.length) >=
        0)
        return true;
    channel->drops.count[reason_of(errno)]++;
    return false;
}

/* Whatever is not a packet of the stream: sent on, never copied. RTCP goes to `target`. */
static void pass_on(Channel *channel, const Address *target, const uint8_t *packet, size_t size)
{
    const Channel *peer = channel->peer;
    if (target->length == 0 || peer == NULL || peer->fd < 0)
        return;
    if (sendto(peer->fd, packet, size, MSG_DONTWAIT | MSG_NOSIGNAL, &target->of.any, target->length) < 0)
        channel->drops.count[reason_of(errno)]++;
}

static bool is_rtcp(const uint8_t *packet, size_t size)
{
    return size >= 8 && packet[0] >> 6 == 2 && packet[1] >= 192 && packet[1] <= 223;
}

static void count_rtcp(Channel *channel, size_t size)
{
    channel->rtcp_packets++;
    channel->rtcp_octets += size;
}

static void control(Channel *channel, const Address *source, const uint8_t *packet, size_t size, double now)
{
    if (!channel_admit_control(channel, source, now))
        return;
    if (is_rtcp(packet, size))
        count_rtcp(channel, size);
    Address target = channel_control_target(channel);
    pass_on(channel, &target, packet, size);
}

static void not_rtp(Channel *channel, const Address *source, const uint8_t *packet, size_t size, double now)
{
    bool rtcp = is_rtcp(packet, size);
    if (!channel_admit_other(channel, source, rtcp, now))
        return;
    if (!rtcp) {
        pass_on(channel, &channel->target, packet, size);
        return;
    }
    count_rtcp(channel, size);
    Address target = channel_control_target(channel);
    pass_on(channel, &target, packet, size);
}

/* Does the header say that it is longer than the packet? */
static bool truncated(const uint8_t *packet, size_t size)
{
    size_t header = 12 + 4 * (size_t)(packet[0] & 0x0F);
    if (packet[0] & 0x10)
        header += header + 4 <= size ? 4 + 4 * (size_t)(packet[header + 2] << 8 | packet[header + 3]) : 4;
    return header > size;
}

static uint32_t word(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static void relay(Channel *channel, const uint8_t *packet, size_t size, double now)
{
    channel->packets++;
    channel->octets += size;
    channel->last = now;
    if (!forward(channel, packet, size))
        channel->unsent++;
    for (Py_ssize_t i = 0; i < channel->fork_count; i++)
        copies_put(channel->forks[i], packet, size, now);
}

void channel_arrived(Channel *channel, const Address *source, const uint8_t *packet, size_t size, double now)
{
    if (channel->role == ROLE_CONTROL) {
        control(channel, source, packet, size, now);
        return;
    }
    if (channel->role == ROLE_OPAQUE) {
        if (address_same(source, &channel->source) || channel_admit(channel, source, packet, size, now))
            relay(channel, packet, size, now);
        return;
    }
    if (size < 12 || (packet[0] & 0xC0) != 0x80 || (packet[1] >= 192 && packet[1] <= 223) ||
        ((packet[0] & 0x1F) != 0 && truncated(packet, size))) {
        not_rtp(channel, source, packet, size, now);
        return;
    }
    if (!address_same(source, &channel->source) && !channel_admit(channel, source, packet, size, now))
        return;
    uint16_t seq = (uint16_t)(packet[2] << 8 | packet[3]);
    uint32_t timestamp = word(packet + 4), ssrc = word(packet + 8);
    if (channel->next_seq == seq && channel->ssrc == (int64_t)ssrc) {
        if (now - channel->last > PAUSE && (uint32_t)(timestamp - channel->timestamp) - PAUSE_UNITS < 0x7FFFFFFF)
            channel->paused = true;
        channel->next_seq = (uint16_t)(seq + 1);
    } else {
        channel_resequence(channel, seq, ssrc);
    }
    channel->timestamp = timestamp;
    relay(channel, packet, size, now);
}
