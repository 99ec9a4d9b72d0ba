/* One direction of media. The rules are those of siprec.relay.flow, which says what they are for. */
#include "relay.h"

#include <errno.h>
#include <string.h>
#include <structmember.h>

#define MAX_DROPOUT 3000 /* RFC 3550 A.1 */

static const Address *remote_of(const Channel *channel)
{
    static const Address none;
    if (channel->held)
        return &none;
    return channel->source.length ? &channel->source : &channel->signalled;
}

static void retarget(Channel *channel)
{
    if (channel->peer != NULL && !channel->blocked)
        channel->target = *remote_of(channel->peer);
    else
        channel->target.length = 0;
}

bool channel_admit(Channel *channel, const Address *source, double now)
{
    bool welcome;
    if (channel->source.length == 0)
        welcome = address_same(source, &channel->signalled) || channel->learn == LEARN_ANY ||
                  (channel->learn == LEARN_HOST && address_same_host(source, &channel->signalled));
    else if (address_same(source, &channel->signalled))
        welcome = true;
    else if (address_same_host(source, &channel->source) && channel->learn != LEARN_SIGNALLED)
        welcome = now - channel->last >= channel->port_silence;
    else
        welcome = channel->learn == LEARN_ANY && channel->host_silence > 0 &&
                  now - channel->last >= channel->host_silence;
    if (!welcome) {
        channel->drops.count[REASON_STRANGER]++;
        return false;
    }
    channel->source = *source;
    if (channel->peer != NULL)
        retarget(channel->peer);
    return true;
}

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

static void control(Channel *channel, const Address *source, const uint8_t *packet, size_t size, double now)
{
    if (size < 8 || packet[0] >> 6 != 2 || packet[1] < 192 || packet[1] > 223) {
        channel->drops.count[REASON_MALFORMED]++;
        return;
    }
    if (!address_same(source, &channel->source) && !channel_admit(channel, source, now))
        return;
    channel->rtcp_packets++;
    channel->rtcp_octets += size;
    channel->last = channel->heard = now;
    forward(channel, packet, size);
}

static void not_rtp(Channel *channel, const Address *source, const uint8_t *packet, size_t size, double now)
{
    if (packet[0] < 4 && size >= 20 && memcmp(packet + 4, "\x21\x12\xa4\x42", 4) == 0) {
        channel->drops.count[REASON_STUN]++;
        return;
    }
    if (!address_same(source, &channel->source) && !address_same(source, &channel->signalled)) {
        channel->drops.count[REASON_STRANGER]++;
        return;
    }
    if (packet[0] >> 6 == 2) {
        channel->rtcp_packets++;
        channel->rtcp_octets += size;
    }
    channel->heard = now;
    forward(channel, packet, size);
}

static uint32_t word(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

void channel_arrived(Channel *channel, const Address *source, const uint8_t *packet, size_t size, double now)
{
    if (channel->control) {
        control(channel, source, packet, size, now);
        return;
    }
    if (size < 12) {
        channel->drops.count[REASON_SHORT]++;
        return;
    }
    if ((packet[0] & 0xC0) != 0x80 || (packet[1] >= 192 && packet[1] <= 223)) {
        not_rtp(channel, source, packet, size, now);
        return;
    }
    size_t header = 12 + 4 * (size_t)(packet[0] & 0x0F);
    if (packet[0] & 0x10)
        header += header + 4 <= size ? 4 + 4 * (size_t)(packet[header + 2] << 8 | packet[header + 3]) : 4;
    if (header > size) {
        channel->drops.count[REASON_MALFORMED]++;
        return;
    }
    if (!address_same(source, &channel->source) && !channel_admit(channel, source, now))
        return;
    uint16_t seq = (uint16_t)(packet[2] << 8 | packet[3]);
    uint32_t ssrc = word(packet + 8);
    channel->packets++;
    channel->octets += size;
    channel->last = now;
    channel->timestamp = word(packet + 4);
    if (channel->next_seq == seq && channel->ssrc == (int64_t)ssrc)
        channel->next_seq = (uint16_t)(seq + 1);
    else
        resequence(channel, seq, ssrc);
    if (!forward(channel, packet, size))
        channel->unsent++;
    for (Py_ssize_t i = 0; i < channel->fork_count; i++)
        copies_put(channel->forks[i], packet, size, now);
}

/* -- Python ------------------------------------------------------------------------------------------------------- */

static PyObject *channel_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"loop", "sock", "control", "learn", "port_silence", "host_silence", NULL};
    PyObject *loop, *sock;
    int is_control, learn;
    double port_silence, host_silence;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!Opidd", names, LoopType, &loop, &sock, &is_control, &learn,
                                     &port_silence, &host_silence))
        return NULL;
    int fd = PyObject_AsFileDescriptor(sock);
    if (fd < 0)
        return NULL;
    Channel *channel = (Channel *)type->tp_alloc(type, 0);
    if (channel == NULL)
        return NULL;
    channel->loop = (Loop *)Py_NewRef(loop);
    channel->fd = fd;
    channel->control = is_control != 0;
    channel->learn = learn;
    channel->port_silence = port_silence;
    channel->host_silence = host_silence;
    channel->next_seq = channel->ssrc = -1;
    return (PyObject *)channel;
}

static int channel_traverse(PyObject *self, visitproc visit, void *arg)
{
    Channel *channel = (Channel *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(channel->loop);
    Py_VISIT(channel->peer);
    for (Py_ssize_t i = 0; i < channel->fork_count; i++)
        Py_VISIT(channel->forks[i]);
    return 0;
}

/* What must not be let go under the lock (a destructor may want it) is let go after it. */
static void release(Channel *peer, Copies **forks, Py_ssize_t count)
{
    Py_XDECREF(peer);
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
    Channel *peer = channel->peer;
    Copies **forks = channel->forks;
    Py_ssize_t count = channel->fork_count;
    channel->peer = NULL;
    channel->forks = NULL;
    channel->fork_count = 0;
    channel->target.length = 0;
    loop_unlock(channel->loop);
    release(peer, forks, count);
    return 0;
}

static void channel_dealloc(PyObject *self)
{
    Channel *channel = (Channel *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    channel_clear(self);
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

static PyObject *channel_pair(PyObject *self, PyObject *given)
{
    Channel *channel = (Channel *)self, *peer = NULL;
    if (given != Py_None) {
        if (!PyObject_TypeCheck(given, ChannelType) || ((Channel *)given)->loop != channel->loop) {
            PyErr_SetString(PyExc_TypeError, "pair() takes None or a channel of the same loop");
            return NULL;
        }
        peer = (Channel *)Py_NewRef(given);
    }
    loop_lock(channel->loop);
    Channel *before = channel->peer;
    channel->peer = peer;
    retarget(channel);
    loop_unlock(channel->loop);
    Py_XDECREF(before);
    Py_RETURN_NONE;
}

static PyObject *channel_retarget(PyObject *self, PyObject *Py_UNUSED(none))
{
    Channel *channel = (Channel *)self;
    loop_lock(channel->loop);
    retarget(channel);
    loop_unlock(channel->loop);
    Py_RETURN_NONE;
}

static PyObject *channel_signal(PyObject *self, PyObject *args)
{
    Channel *channel = (Channel *)self;
    PyObject *given;
    int held;
    Address address;
    if (!PyArg_ParseTuple(args, "Op", &given, &held) || address_from_python(given, &address) < 0)
        return NULL;
    loop_lock(channel->loop);
    channel->held = held != 0;
    bool same = address.length == 0 ? channel->signalled.length == 0 : address_same(&address, &channel->signalled);
    if (!same && !held) {
        channel->signalled = address;
        channel->source.length = 0;
    }
    if (channel->peer != NULL)
        retarget(channel->peer);
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
    retarget(channel);
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
            release(NULL, forks, i);
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
    release(NULL, before, count_before);
    return PyLong_FromUnsignedLongLong(packets);
}

static PyObject *channel_admit_python(PyObject *self, PyObject *args)
{
    Channel *channel = (Channel *)self;
    PyObject *given;
    double now;
    Address source;
    if (!PyArg_ParseTuple(args, "Od", &given, &now) || address_from_python(given, &source) < 0)
        return NULL;
    loop_lock(channel->loop);
    bool welcome = channel_admit(channel, &source, now);
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

typedef enum { F_SOURCE, F_SIGNALLED, F_TARGET, F_HELD, F_BLOCKED, F_SSRCS, F_DROPPED, F_WATCHED } Field;

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

static PyMethodDef channel_methods[] = {
    {"watch", channel_watch, METH_O, NULL},
    {"close", channel_close, METH_NOARGS, NULL},
    {"pair", channel_pair, METH_O, NULL},
    {"retarget", channel_retarget, METH_NOARGS, NULL},
    {"signal", channel_signal, METH_VARARGS, NULL},
    {"block", channel_block, METH_O, NULL},
    {"set_forks", channel_set_forks, METH_O, NULL},
    {"admit", channel_admit_python, METH_VARARGS, NULL},
    {"resequence", channel_resequence, METH_VARARGS, NULL},
    {"position", channel_position, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

#define AT(member) ((void *)offsetof(Channel, member))
static PyGetSetDef channel_getset[] = {
    {"source", channel_get, NULL, NULL, (void *)F_SOURCE},
    {"signalled", channel_get, NULL, NULL, (void *)F_SIGNALLED},
    {"target", channel_get, NULL, NULL, (void *)F_TARGET},
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
