/* Whose media a channel takes. The rules are those of siprec.relay.rtp_stream, which says what they are for. */
#include "relay.h"

#include <stdlib.h>
#include <string.h>

#define NEAR_PACKETS 3
#define NEAR_SECONDS 0.1
#define FAR_PACKETS 10
#define WITH_PAUSES 3 /* silence means less where pauses are usual: that many times as long */
#define RIVAL_FRESH 0.5
#define VERIFY_PAUSE 1.0
#define REORDER 5
#define LARGEST_VERIFIED 2048

static const Address none;

static bool known_host(const Channel *channel, const Address *source)
{
    return address_same_host(source, &channel->source) || address_same_host(source, &channel->signalled);
}

/* Nothing says where this party sends from: whoever comes first is taken. */
static bool first_come(const Channel *channel)
{
    return channel->learn == LEARN_ANY && (channel->signalled.length == 0 || channel->nat);
}

static const Address *remote_of(const Channel *channel)
{
    if (channel->held)
        return &none;
    if (channel->source.length)
        return &channel->source;
    return channel->tentative.length ? &channel->tentative : &channel->signalled;
}

void channel_retarget(Channel *channel)
{
    if (channel->peer != NULL && !channel->blocked)
        channel->target = *remote_of(channel->peer);
    else
        channel->target.length = 0;
}

void channel_forget(Channel *channel)
{
    while (channel->moves != NULL) {
        Move *first = channel->moves;
        channel->moves = first->next;
        free(first);
    }
    channel->move_count = 0;
    free(channel->unverified);
    channel->unverified = NULL;
}

/* An event for Python, if `source` is on another host than what it takes the place of. */
static void moved(Channel *channel, const Address *from, const Address *to)
{
    if (channel->role == ROLE_CONTROL || from->length == 0 || address_same_host(from, to))
        return;
    if (channel->move_count >= MAX_MOVES)
        return;
    Move *move = malloc(sizeof *move), **at = &channel->moves;
    if (move == NULL) {
        channel->drops.count[REASON_MEMORY]++;
        return;
    }
    *move = (Move){.from = *from, .to = *to};
    while (*at != NULL)
        at = &(*at)->next;
    *at = move;
    channel->move_count++;
    loop_notice(channel);
}

/* Is `source` on the signalled host, and the known source is not? */
static bool returns(const Channel *channel, const Address *source)
{
    return address_same_host(source, &channel->signalled) &&
           !address_same_host(&channel->source, &channel->signalled);
}

static void take(Channel *channel, const Address *source)
{
    Address before = channel->source.length ? channel->source : channel->signalled;
    bool settled = channel->source.length != 0;
    bool returned = returns(channel, source) || address_same(source, &channel->signalled) ||
                    address_same(source, &channel->old);
    if (settled || !first_come(channel))
        moved(channel, &before, source);
    channel->old = settled && !returned ? channel->source : none;
    channel->source = *source;
    channel->tentative.length = 0;
    channel->paused = false;
    channel->rival.count = 0;
    free(channel->unverified);
    channel->unverified = NULL;
    if (channel->peer != NULL)
        channel_retarget(channel->peer);
}

/* Is `packet` one that the party may send by what was agreed on? */
static bool agreed(const Channel *channel, const uint8_t *packet, size_t size)
{
    if (channel->role == ROLE_OPAQUE)
        return channel->payloads[0] != 0;
    uint8_t type = size >= 12 ? packet[1] & 0x7F : 0;
    return size >= 12 && (channel->payloads[type >> 6] >> (type & 63) & 1) != 0;
}

/* Has the known source spoken since the rival's newest packet? One from elsewhere does not hold up the signalled host. */
static bool interrupted(const Channel *channel, const Address *source)
{
    return channel->rival.mark != channel->packets && !returns(channel, source);
}

/* Count a packet of a source that is not the known one; how many came in a row. */
static uint32_t in_a_row(Channel *channel, const Address *source, const uint8_t *packet, size_t size, double now)
{
    Rival *rival = &channel->rival;
    if (!agreed(channel, packet, size))
        return 0;
    bool opaque = channel->role == ROLE_OPAQUE;
    uint16_t seq = opaque ? 0 : (uint16_t)(packet[2] << 8 | packet[3]);
    uint32_t ssrc = 0;
    if (!opaque)
        ssrc = (uint32_t)packet[8] << 24 | (uint32_t)packet[9] << 16 | (uint32_t)packet[10] << 8 | packet[11];
    bool same = rival->count > 0 && address_same(source, &rival->source);
    if (rival->count > 0 && !same && now - rival->last < RIVAL_FRESH && !interrupted(channel, &rival->source) &&
        (known_host(channel, &rival->source) || !known_host(channel, source)))
        return 0; /* one at a time; a host that is known comes before others */
    uint16_t ahead = (uint16_t)(seq - rival->seq);
    bool running = same && !interrupted(channel, source) && ssrc == rival->ssrc && now - rival->last < RIVAL_FRESH;
    if (running && !opaque) {
        if (ahead == 0 || ahead >= (uint16_t)(0x10000 - REORDER))
            return rival->count; /* doubled or late */
        running = ahead <= REORDER;
    }
    if (!running)
        *rival = (Rival){.source = *source, .since = now};
    rival->mark = channel->packets;
    rival->ssrc = ssrc;
    rival->seq = seq;
    rival->last = now;
    return ++rival->count;
}

/* Python authenticates; what it says comes by channel_adopt(). */
static void verify(Channel *channel, const uint8_t *packet, size_t size, double now)
{
    if (channel->unverified != NULL || now < channel->verify_at || size > LARGEST_VERIFIED)
        return;
    channel->unverified = malloc(size + 1);
    if (channel->unverified == NULL) {
        channel->drops.count[REASON_MEMORY]++;
        return;
    }
    memcpy(channel->unverified, packet, size);
    channel->unverified_size = size;
    loop_notice(channel);
}

void channel_adopt(Channel *channel, const Address *source, bool adopt, double now)
{
    free(channel->unverified);
    channel->unverified = NULL;
    if (!adopt) {
        channel->rival.count = 0;
        channel->verify_at = now + VERIFY_PAUSE;
    } else if (channel->rival.count > 0 && address_same(source, &channel->rival.source) &&
               !interrupted(channel, source)) {
        take(channel, source);
    }
}

static bool stranger(Channel *channel)
{
    channel->drops.count[REASON_STRANGER]++;
    return false;
}

bool channel_admit(Channel *channel, const Address *source, const uint8_t *packet, size_t size, double now)
{
    if (address_same(source, &channel->signalled) || address_same(source, &channel->old)) {
        take(channel, source);
        return true;
    }
    bool first = first_come(channel) && channel->source.length == 0;
    if (first && !channel->secure) {
        take(channel, source);
        return true;
    }
    if (channel->learn == LEARN_SIGNALLED)
        return stranger(channel);
    bool near = known_host(channel, source);
    if (!first && !near && (channel->learn != LEARN_ANY || channel->relearn <= 0))
        return stranger(channel);
    uint32_t count = in_a_row(channel, source, packet, size, now);
    bool enough;
    if (first) {
        enough = count > 0;
    } else if (near) {
        enough = count >= NEAR_PACKETS || (count == NEAR_PACKETS - 1 && now - channel->rival.since >= NEAR_SECONDS);
    } else {
        double heard = channel->last > channel->heard ? channel->last : channel->heard;
        double limit = channel->relearn * (channel->pauses || channel->paused ? WITH_PAUSES : 1);
        enough = count >= FAR_PACKETS && now - (heard > channel->since ? heard : channel->since) >= limit;
    }
    if (!enough)
        return stranger(channel);
    if (channel->secure) {
        verify(channel, packet, size, now);
        return stranger(channel);
    }
    take(channel, source);
    return true;
}

/* Datagrams on the port of RTP that are not RTP prove nothing; they are taken from known sources, and where there is
   none, they are answered to until RTP shows who it is (DTLS, STUN and ZRTP come before it). */
bool channel_admit_other(Channel *channel, const Address *source, bool rtcp, double now)
{
    if (address_same(source, &channel->source) || address_same(source, &channel->signalled) ||
        address_same(source, &channel->old) || address_same(source, &channel->tentative)) {
        if (address_same(source, &channel->signalled) && channel->source.length == 0)
            take(channel, source);
        channel->heard = now;
        return true;
    }
    if (rtcp || channel->source.length != 0 || channel->secure || channel->learn == LEARN_SIGNALLED ||
        !(known_host(channel, source) || first_come(channel)))
        return stranger(channel);
    channel->tentative = *source;
    channel->heard = now;
    if (channel->peer != NULL)
        channel_retarget(channel->peer);
    return true;
}

/* Hosts that RTCP of a party may come from: where its media come from, and those it signalled. */
static bool control_host(const Channel *channel, const Address *source)
{
    const Channel *media = channel->media;
    return address_same_host(source, &channel->signalled) || (media != NULL && known_host(media, source));
}

bool channel_admit_control(Channel *channel, const Address *source, double now)
{
    bool known = channel->source.length != 0 && control_host(channel, &channel->source);
    if (address_same(source, &channel->signalled)) {
        channel->source = *source;
    } else if (channel->learn == LEARN_SIGNALLED || !control_host(channel, source)) {
        return stranger(channel);
    } else if (!known || address_same(source, &channel->source) || now - channel->last >= channel->relearn) {
        channel->source = *source;
    }
    if (address_same(source, &channel->source))
        channel->last = now;
    channel->heard = now;
    return true;
}

/* RTCP goes only to a host that something came from. */
Address channel_control_target(const Channel *channel)
{
    const Channel *peer = channel->peer;
    if (peer == NULL || channel->blocked || peer->held)
        return none;
    if (peer->role != ROLE_CONTROL)
        return peer->source.length || peer->tentative.length ? *remote_of(peer) : none;
    if (peer->source.length && control_host(peer, &peer->source))
        return peer->source;
    if (peer->media != NULL && address_same_host(&peer->signalled, &peer->media->source))
        return peer->signalled;
    return none;
}

void channel_signal(Channel *channel, const Address *address, bool held, double now)
{
    channel->held = held;
    bool same = address->length == 0 ? channel->signalled.length == 0 : address_same(address, &channel->signalled);
    if (!same && !held) {
        channel->signalled = *address;
        channel->source.length = channel->old.length = channel->tentative.length = 0;
        channel->paused = false;
        channel->rival.count = 0;
        channel->since = now;
    }
    if (channel->peer != NULL)
        channel_retarget(channel->peer);
}
