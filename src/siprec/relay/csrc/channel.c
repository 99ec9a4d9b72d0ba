/* One direction of media. The rules are those of siprec.relay.rtp_stream, which says what they are for. */
#include "relay.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <structmember.h>

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

static void resequence(Channel *channel, uint16_t seq, uint32_t ssrc)
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
        resequence(channel, seq, ssrc);
    }
    channel->timestamp = timestamp;
    relay(channel, packet, size, now);
}

/* -- Python ------------------------------------------------------------------------------------------------------- */

/* address_from_python() */
static int address_converter(PyObject *given, void *out)
{
    return address_from_python(given, out) == 0;
}

static PyObject *channel_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"loop", "sock", "role", "learn", "relearn", NULL};
    PyObject *loop, *sock;
    int role, learn;
    double relearn;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!Oiid", names, LoopType, &loop, &sock, &role, &learn, &relearn))
        return NULL;
    if (role < ROLE_RTP || role > ROLE_OPAQUE || learn < LEARN_ANY || learn > LEARN_SIGNALLED) {
        PyErr_SetString(PyExc_ValueError, "no such role, or no such way to learn");
        return NULL;
    }
    int fd = PyObject_AsFileDescriptor(sock);
    if (fd < 0)
        return NULL;
    Channel *channel = (Channel *)type->tp_alloc(type, 0);
    if (channel == NULL)
        return NULL;
    channel->loop = (Loop *)Py_NewRef(loop);
    channel->fd = fd;
    channel->role = role;
    channel->learn = learn;
    channel->relearn = relearn;
    channel->next_seq = channel->ssrc = -1;
    return (PyObject *)channel;
}

static int channel_traverse(PyObject *self, visitproc visit, void *arg)
{
    Channel *channel = (Channel *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(channel->loop);
    Py_VISIT(channel->peer);
    Py_VISIT(channel->media);
    for (Py_ssize_t i = 0; i < channel->fork_count; i++)
        Py_VISIT(channel->forks[i]);
    return 0;
}

/* What must not be let go under the lock (a destructor may want it) is let go after it. */
static void release(Channel *peer, Channel *media, Copies **forks, Py_ssize_t count)
{
    Py_XDECREF(peer);
    Py_XDECREF(media);
    for (Py_ssize_t i = 0; i < count; i++)
        Py_DECREF(forks[i]);
    PyMem_Free(forks);
}

static int channel_clear(PyObject *self)
{
    /* A channel that is watched is held by its loop's table, so what comes here is out of the thread's reach but for
       the loop's lock being the rule. */
    Channel *channel = (Channel *)self;
    if (channel->loop == NULL)
        return 0;
    loop_lock(channel->loop);
    Channel *peer = channel->peer, *media = channel->media;
    Copies **forks = channel->forks;
    Py_ssize_t count = channel->fork_count;
    channel->peer = channel->media = NULL;
    channel->forks = NULL;
    channel->fork_count = 0;
    channel->target.length = 0;
    loop_unlock(channel->loop);
    release(peer, media, forks, count);
    return 0;
}

static void channel_dealloc(PyObject *self)
{
    Channel *channel = (Channel *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    channel_clear(self);
    channel_forget(channel);
    Py_CLEAR(channel->loop);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *channel_watch(PyObject *self, PyObject *given)
{
    Channel *channel = (Channel *)self;
    int watch = PyObject_IsTrue(given);
    if (watch < 0)
        return NULL;
    int error = 0;
    bool release_self = false;
    loop_lock(channel->loop);
    if (watch && !channel->watched) {
        error = channel->fd < 0 ? EBADF : loop_watch(channel->loop, channel);
        if (error == 0)
            Py_INCREF(self); /* the table's */
    } else if (!watch && channel->watched) {
        loop_unwatch(channel->loop, channel);
        release_self = true;
    }
    loop_unlock(channel->loop);
    if (release_self)
        Py_DECREF(self);
    if (error != 0) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

static PyObject *channel_close(PyObject *self, PyObject *Py_UNUSED(none))
{
    Channel *channel = (Channel *)self;
    loop_lock(channel->loop);
    bool watched = channel->watched;
    if (watched)
        loop_unwatch(channel->loop, channel);
    channel->fd = -1; /* from now on nobody sends by it either: the number may be another socket's soon */
    loop_unlock(channel->loop);
    if (watched)
        Py_DECREF(self);
    Py_RETURN_NONE;
}

/* Replaces a reference to a channel of the same loop; -1: `given` is none. */
static int refer(Channel *channel, Channel **member, PyObject *given)
{
    Channel *other = NULL;
    if (given != Py_None) {
        if (!PyObject_TypeCheck(given, ChannelType) || ((Channel *)given)->loop != channel->loop) {
            PyErr_SetString(PyExc_TypeError, "None, or a channel of the same loop, is needed");
            return -1;
        }
        other = (Channel *)Py_NewRef(given);
    }
    loop_lock(channel->loop);
    Channel *before = *member;
    *member = other;
    channel_retarget(channel);
    loop_unlock(channel->loop);
    Py_XDECREF(before);
    return 0;
}

static PyObject *channel_pair(PyObject *self, PyObject *given)
{
    Channel *channel = (Channel *)self;
    if (refer(channel, &channel->peer, given) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *channel_attend(PyObject *self, PyObject *given)
{
    Channel *channel = (Channel *)self;
    if (refer(channel, &channel->media, given) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *channel_retarget_python(PyObject *self, PyObject *Py_UNUSED(none))
{
    Channel *channel = (Channel *)self;
    loop_lock(channel->loop);
    channel_retarget(channel);
    loop_unlock(channel->loop);
    Py_RETURN_NONE;
}

static PyObject *channel_signal_python(PyObject *self, PyObject *args)
{
    Channel *channel = (Channel *)self;
    int held;
    double now;
    Address address;
    if (!PyArg_ParseTuple(args, "O&pd", address_converter, &address, &held, &now))
        return NULL;
    loop_lock(channel->loop);
    channel_signal(channel, &address, held != 0, now);
    loop_unlock(channel->loop);
    Py_RETURN_NONE;
}

static PyObject *channel_expect(PyObject *self, PyObject *args)
{
    Channel *channel = (Channel *)self;
    unsigned long long low, high;
    int nat, pauses, secure;
    if (!PyArg_ParseTuple(args, "KKppp", &low, &high, &nat, &pauses, &secure))
        return NULL;
    loop_lock(channel->loop);
    channel->payloads[0] = low;
    channel->payloads[1] = high;
    channel->nat = nat != 0;
    channel->pauses = pauses != 0;
    channel->secure = secure != 0;
    loop_unlock(channel->loop);
    Py_RETURN_NONE;
}

static PyObject *channel_block(PyObject *self, PyObject *given)
{
    Channel *channel = (Channel *)self;
    int blocked = PyObject_IsTrue(given);
    if (blocked < 0)
        return NULL;
    loop_lock(channel->loop);
    channel->blocked = blocked != 0;
    channel_retarget(channel);
    loop_unlock(channel->loop);
    Py_RETURN_NONE;
}

/* What Python is to be told: pairs (from, to). */
static PyObject *channel_moves(PyObject *self, PyObject *Py_UNUSED(none))
{
    Channel *channel = (Channel *)self;
    loop_lock(channel->loop);
    Move *moves = channel->moves;
    channel->moves = NULL;
    channel->move_count = 0;
    loop_unlock(channel->loop);
    PyObject *found = PyList_New(0);
    while (moves != NULL) {
        Move *first = moves;
        moves = first->next;
        if (found != NULL) {
            PyObject *pair = Py_BuildValue("(NN)", address_to_python(&first->from), address_to_python(&first->to));
            if (pair == NULL || PyList_Append(found, pair) < 0)
                Py_CLEAR(found);
            Py_XDECREF(pair);
        }
        free(first);
    }
    return found;
}

/* (source, packet) that waits to be authenticated, or None. */
static PyObject *channel_unverified(PyObject *self, PyObject *Py_UNUSED(none))
{
    Channel *channel = (Channel *)self;
    uint8_t packet[2048];
    loop_lock(channel->loop);
    bool any = channel->unverified != NULL && channel->unverified_size <= sizeof packet;
    size_t size = channel->unverified_size;
    Address source = channel->rival.source;
    if (any)
        memcpy(packet, channel->unverified, size);
    loop_unlock(channel->loop);
    if (!any)
        Py_RETURN_NONE;
    return Py_BuildValue("(Ny#)", address_to_python(&source), (const char *)packet, (Py_ssize_t)size);
}

static PyObject *channel_adopt_python(PyObject *self, PyObject *args)
{
    Channel *channel = (Channel *)self;
    Address source;
    int adopt;
    double now;
    if (!PyArg_ParseTuple(args, "O&pd", address_converter, &source, &adopt, &now))
        return NULL;
    loop_lock(channel->loop);
    channel_adopt(channel, &source, adopt != 0, now);
    loop_unlock(channel->loop);
    Py_RETURN_NONE;
}

static PyObject *channel_set_forks(PyObject *self, PyObject *given)
{
    Channel *channel = (Channel *)self;
    if (!PyTuple_Check(given)) {
        PyErr_SetString(PyExc_TypeError, "forks are a tuple");
        return NULL;
    }
    Py_ssize_t count = PyTuple_GET_SIZE(given);
    Copies **forks = count ? PyMem_Calloc((size_t)count, sizeof *forks) : NULL;
    if (count && forks == NULL)
        return PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *each = PyTuple_GET_ITEM(given, i);
        if (!PyObject_TypeCheck(each, CopiesType) || ((Copies *)each)->loop != channel->loop) {
            PyErr_SetString(PyExc_TypeError, "forks are copies of the same loop");
            release(NULL, NULL, forks, i);
            return NULL;
        }
        forks[i] = (Copies *)Py_NewRef(each);
    }
    loop_lock(channel->loop);
    Copies **before = channel->forks;
    Py_ssize_t count_before = channel->fork_count;
    channel->forks = forks;
    channel->fork_count = count;
    uint64_t packets = channel->packets;
    loop_unlock(channel->loop);
    release(NULL, NULL, before, count_before);
    return PyLong_FromUnsignedLongLong(packets);
}

static PyObject *channel_admit_python(PyObject *self, PyObject *args)
{
    Channel *channel = (Channel *)self;
    Py_buffer packet;
    double now;
    Address source;
    if (!PyArg_ParseTuple(args, "O&dy*", address_converter, &source, &now, &packet))
        return NULL;
    loop_lock(channel->loop);
    bool welcome = channel_admit(channel, &source, packet.buf, (size_t)packet.len, now);
    loop_unlock(channel->loop);
    PyBuffer_Release(&packet);
    return PyBool_FromLong(welcome);
}

static PyObject *channel_admit_other_python(PyObject *self, PyObject *args)
{
    Channel *channel = (Channel *)self;
    int rtcp;
    double now;
    Address source;
    if (!PyArg_ParseTuple(args, "O&dp", address_converter, &source, &now, &rtcp))
        return NULL;
    loop_lock(channel->loop);
    bool welcome = channel->role == ROLE_CONTROL ? channel_admit_control(channel, &source, now)
                                                 : channel_admit_other(channel, &source, rtcp != 0, now);
    loop_unlock(channel->loop);
    return PyBool_FromLong(welcome);
}

static PyObject *channel_resequence(PyObject *self, PyObject *args)
{
    Channel *channel = (Channel *)self;
    unsigned int seq, ssrc;
    if (!PyArg_ParseTuple(args, "II", &seq, &ssrc))
        return NULL;
    loop_lock(channel->loop);
    resequence(channel, (uint16_t)seq, ssrc);
    loop_unlock(channel->loop);
    Py_RETURN_NONE;
}

static PyObject *channel_fileno(PyObject *self, PyObject *Py_UNUSED(none))
{
    Channel *channel = (Channel *)self;
    loop_lock(channel->loop);
    int fd = channel->fd;
    loop_unlock(channel->loop);
    return PyLong_FromLong(fd);
}

static PyObject *channel_position(PyObject *self, PyObject *Py_UNUSED(none))
{
    Channel *channel = (Channel *)self;
    loop_lock(channel->loop);
    long long ssrc = channel->ssrc;
    unsigned timestamp = channel->timestamp;
    double last = channel->last;
    loop_unlock(channel->loop);
    return Py_BuildValue("(LId)", ssrc, timestamp, last);
}

typedef enum {
    F_SOURCE,
    F_SIGNALLED,
    F_TARGET,
    F_CONTROL_TARGET,
    F_TENTATIVE,
    F_HELD,
    F_BLOCKED,
    F_SSRCS,
    F_DROPPED,
    F_WATCHED,
} Field;

static PyObject *channel_get(PyObject *self, void *which)
{
    Channel *channel = (Channel *)self;
    Address address = {0};
    uint32_t ssrcs[MAX_SSRCS];
    bool flag = false;
    Drops drops;
    loop_lock(channel->loop);
    int ssrc_count = channel->ssrc_count;
    switch ((Field)(intptr_t)which) {
    case F_SOURCE:
        address = channel->source;
        break;
    case F_SIGNALLED:
        address = channel->signalled;
        break;
    case F_TARGET:
        address = channel->target;
        break;
    case F_TENTATIVE:
        address = channel->tentative;
        break;
    case F_CONTROL_TARGET:
        address = channel_control_target(channel);
        break;
    case F_HELD:
        flag = channel->held;
        break;
    case F_BLOCKED:
        flag = channel->blocked;
        break;
    case F_WATCHED:
        flag = channel->watched;
        break;
    case F_SSRCS:
        memcpy(ssrcs, channel->ssrcs, sizeof ssrcs);
        break;
    case F_DROPPED:
        drops = channel->drops;
        break;
    }
    loop_unlock(channel->loop);
    switch ((Field)(intptr_t)which) {
    case F_HELD:
    case F_BLOCKED:
    case F_WATCHED:
        return PyBool_FromLong(flag);
    case F_DROPPED:
        return drops_to_python(&drops);
    case F_SSRCS: {
        PyObject *list = PyList_New(ssrc_count);
        for (int i = 0; list != NULL && i < ssrc_count; i++) {
            PyObject *number = PyLong_FromUnsignedLong(ssrcs[i]);
            if (number == NULL)
                Py_CLEAR(list);
            else
                PyList_SET_ITEM(list, i, number);
        }
        return list;
    }
    default:
        return address_to_python(&address);
    }
}

/* Plain numbers: read and written by the Python loop when it serves this flow. `closure` is the offset. */
static PyObject *count_get(PyObject *self, void *offset)
{
    Channel *channel = (Channel *)self;
    loop_lock(channel->loop);
    uint64_t value = *(uint64_t *)((char *)self + (intptr_t)offset);
    loop_unlock(channel->loop);
    return PyLong_FromUnsignedLongLong(value);
}

static int count_set(PyObject *self, PyObject *given, void *offset)
{
    Channel *channel = (Channel *)self;
    if (given == NULL) {
        PyErr_SetString(PyExc_AttributeError, "cannot be deleted");
        return -1;
    }
    uint64_t value = PyLong_AsUnsignedLongLong(given);
    if (value == (uint64_t)-1 && PyErr_Occurred())
        return -1;
    loop_lock(channel->loop);
    *(uint64_t *)((char *)self + (intptr_t)offset) = value;
    loop_unlock(channel->loop);
    return 0;
}

static PyObject *signed_get(PyObject *self, void *offset)
{
    Channel *channel = (Channel *)self;
    loop_lock(channel->loop);
    int64_t value = *(int64_t *)((char *)self + (intptr_t)offset);
    loop_unlock(channel->loop);
    return PyLong_FromLongLong(value);
}

static int signed_set(PyObject *self, PyObject *given, void *offset)
{
    Channel *channel = (Channel *)self;
    if (given == NULL) {
        PyErr_SetString(PyExc_AttributeError, "cannot be deleted");
        return -1;
    }
    int64_t value = PyLong_AsLongLong(given);
    if (value == -1 && PyErr_Occurred())
        return -1;
    loop_lock(channel->loop);
    *(int64_t *)((char *)self + (intptr_t)offset) = value;
    loop_unlock(channel->loop);
    return 0;
}

static PyObject *time_get(PyObject *self, void *offset)
{
    Channel *channel = (Channel *)self;
    loop_lock(channel->loop);
    double value = *(double *)((char *)self + (intptr_t)offset);
    loop_unlock(channel->loop);
    return PyFloat_FromDouble(value);
}

static int time_set(PyObject *self, PyObject *given, void *offset)
{
    Channel *channel = (Channel *)self;
    if (given == NULL) {
        PyErr_SetString(PyExc_AttributeError, "cannot be deleted");
        return -1;
    }
    double value = PyFloat_AsDouble(given);
    if (value == -1.0 && PyErr_Occurred())
        return -1;
    loop_lock(channel->loop);
    *(double *)((char *)self + (intptr_t)offset) = value;
    loop_unlock(channel->loop);
    return 0;
}

static PyObject *timestamp_get(PyObject *self, void *Py_UNUSED(closure))
{
    Channel *channel = (Channel *)self;
    loop_lock(channel->loop);
    uint32_t value = channel->timestamp;
    loop_unlock(channel->loop);
    return PyLong_FromUnsignedLong(value);
}

static int timestamp_set(PyObject *self, PyObject *given, void *Py_UNUSED(closure))
{
    Channel *channel = (Channel *)self;
    if (given == NULL) {
        PyErr_SetString(PyExc_AttributeError, "cannot be deleted");
        return -1;
    }
    unsigned long value = PyLong_AsUnsignedLongMask(given);
    if (value == (unsigned long)-1 && PyErr_Occurred())
        return -1;
    loop_lock(channel->loop);
    channel->timestamp = (uint32_t)value;
    loop_unlock(channel->loop);
    return 0;
}

static PyObject *paused_get(PyObject *self, void *Py_UNUSED(closure))
{
    Channel *channel = (Channel *)self;
    loop_lock(channel->loop);
    bool paused = channel->paused;
    loop_unlock(channel->loop);
    return PyBool_FromLong(paused);
}

static int paused_set(PyObject *self, PyObject *given, void *Py_UNUSED(closure))
{
    Channel *channel = (Channel *)self;
    int paused = given != NULL ? PyObject_IsTrue(given) : 0;
    if (paused < 0)
        return -1;
    loop_lock(channel->loop);
    channel->paused = paused != 0;
    loop_unlock(channel->loop);
    return 0;
}

static PyMethodDef channel_methods[] = {
    {"watch", channel_watch, METH_O, NULL},
    {"close", channel_close, METH_NOARGS, NULL},
    {"fileno", channel_fileno, METH_NOARGS, NULL},
    {"pair", channel_pair, METH_O, NULL},
    {"attend", channel_attend, METH_O, NULL},
    {"retarget", channel_retarget_python, METH_NOARGS, NULL},
    {"signal", channel_signal_python, METH_VARARGS, NULL},
    {"expect", channel_expect, METH_VARARGS, NULL},
    {"moves", channel_moves, METH_NOARGS, NULL},
    {"unverified", channel_unverified, METH_NOARGS, NULL},
    {"adopt", channel_adopt_python, METH_VARARGS, NULL},
    {"block", channel_block, METH_O, NULL},
    {"set_forks", channel_set_forks, METH_O, NULL},
    {"admit", channel_admit_python, METH_VARARGS, NULL},
    {"admit_other", channel_admit_other_python, METH_VARARGS, NULL},
    {"resequence", channel_resequence, METH_VARARGS, NULL},
    {"position", channel_position, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

#define AT(member) ((void *)offsetof(Channel, member))
static PyGetSetDef channel_getset[] = {
    {"source", channel_get, NULL, NULL, (void *)F_SOURCE},
    {"signalled", channel_get, NULL, NULL, (void *)F_SIGNALLED},
    {"target", channel_get, NULL, NULL, (void *)F_TARGET},
    {"tentative", channel_get, NULL, NULL, (void *)F_TENTATIVE},
    {"control_target", channel_get, NULL, NULL, (void *)F_CONTROL_TARGET},
    {"held", channel_get, NULL, NULL, (void *)F_HELD},
    {"blocked", channel_get, NULL, NULL, (void *)F_BLOCKED},
    {"watched", channel_get, NULL, NULL, (void *)F_WATCHED},
    {"ssrcs", channel_get, NULL, NULL, (void *)F_SSRCS},
    {"dropped", channel_get, NULL, NULL, (void *)F_DROPPED},
    {"packets", count_get, count_set, NULL, AT(packets)},
    {"octets", count_get, count_set, NULL, AT(octets)},
    {"rtcp_packets", count_get, count_set, NULL, AT(rtcp_packets)},
    {"rtcp_octets", count_get, count_set, NULL, AT(rtcp_octets)},
    {"gaps", count_get, count_set, NULL, AT(gaps)},
    {"late", count_get, count_set, NULL, AT(late)},
    {"unsent", count_get, count_set, NULL, AT(unsent)},
    {"next_seq", signed_get, signed_set, NULL, AT(next_seq)},
    {"ssrc", signed_get, signed_set, NULL, AT(ssrc)},
    {"last", time_get, time_set, NULL, AT(last)},
    {"heard", time_get, time_set, NULL, AT(heard)},
    {"timestamp", timestamp_get, timestamp_set, NULL, NULL},
    {"paused", paused_get, paused_set, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot channel_slots[] = {
    {Py_tp_new, channel_new},
    {Py_tp_dealloc, channel_dealloc},
    {Py_tp_traverse, channel_traverse},
    {Py_tp_clear, channel_clear},
    {Py_tp_methods, channel_methods},
    {Py_tp_getset, channel_getset},
    {0, NULL},
};

PyType_Spec channel_spec = {
    .name = "siprec.relay._native.Channel",
    .basicsize = sizeof(Channel),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = channel_slots,
};
