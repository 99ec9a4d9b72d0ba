/* The attributes of a channel as Python reads and writes them; see _native.pyi. */
#include "relay.h"

#include <stddef.h>
#include <string.h>

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

#define AT(member) ((void *)offsetof(Channel, member))
PyGetSetDef channel_getset[] = {
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
