/* A channel as Python has it: its life and its methods; see _native.pyi. */
#include "relay.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

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

static PyObject *channel_resequence_python(PyObject *self, PyObject *args)
{
    Channel *channel = (Channel *)self;
    unsigned int seq, ssrc;
    if (!PyArg_ParseTuple(args, "II", &seq, &ssrc))
        return NULL;
    loop_lock(channel->loop);
    channel_resequence(channel, (uint16_t)seq, ssrc);
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
    {"resequence", channel_resequence_python, METH_VARARGS, NULL},
    {"position", channel_position, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
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
