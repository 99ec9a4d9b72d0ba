/* Where copies of packets go: nowhere, into a bounded queue (pre-roll), or out. */
#include "relay.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#define PREROLL_OCTETS (2u << 20) /* as siprec.relay.fork_sink */

static void drop_first(Copies *copies)
{
    Kept *first = copies->first;
    copies->first = first->next;
    if (copies->first == NULL)
        copies->last = NULL;
    copies->waiting--;
    copies->waiting_octets -= first->size;
    free(first);
}

static void clear(Copies *copies)
{
    while (copies->first != NULL)
        drop_first(copies);
}

/* After `after`, or first if that is NULL. NULL: no memory, which is counted. */
static Kept *insert(Copies *copies, Kept *after, const uint8_t *packet, size_t size, double at)
{
    Kept *kept = malloc(sizeof *kept + size);
    if (kept == NULL) {
        copies->drops.count[REASON_MEMORY]++;
        return NULL;
    }
    kept->next = after != NULL ? after->next : copies->first;
    kept->at = at;
    kept->size = size;
    if (size > 0)
        memcpy(kept->data, packet, size);
    if (after != NULL)
        after->next = kept;
    else
        copies->first = kept;
    if (kept->next == NULL)
        copies->last = kept;
    copies->waiting++;
    copies->waiting_octets += size;
    return kept;
}

/* As it came, but numbered as if the packets withheld before it had never been. */
static ssize_t send_renumbered(int fd, const uint8_t *packet, size_t size, uint16_t by)
{
    uint16_t seq = (uint16_t)((packet[2] << 8 | packet[3]) - by);
    uint8_t head[4] = {packet[0], packet[1], (uint8_t)(seq >> 8), (uint8_t)seq};
    struct iovec parts[2] = {{head, sizeof head}, {(void *)(packet + sizeof head), size - sizeof head}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static ssize_t send_to(Copies *copies, const uint8_t *packet, size_t size)
{
    uint16_t by = copies->renumbers ? copies->shift : 0;
    if (by != 0 && size > 4)
        return send_renumbered(copies->fd, packet, size, by);
    return send(copies->fd, packet, size, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void send_one(Copies *copies, const uint8_t *packet, size_t size)
{
    if (copies->fd >= 0 && send_to(copies, packet, size) >= 0) {
        copies->packets++;
        copies->octets += (int64_t)size;
        return;
    }
    copies->drops.count[copies->fd < 0 ? REASON_SEND : reason_of(errno)]++;
}

void copies_put(Copies *copies, const uint8_t *packet, size_t size, double now)
{
    if (copies->mode == COPIES_DIRECT) {
        send_one(copies, packet, size);
    } else if (copies->mode == COPIES_KEEP && insert(copies, copies->last, packet, size, now) != NULL) {
        while (copies->first != NULL &&
               (copies->waiting_octets > PREROLL_OCTETS || copies->first->at < now - copies->seconds)) {
            copies->dropped_at = copies->first->at;
            drop_first(copies);
            copies->drops.count[REASON_PREROLL]++;
        }
    } else if (copies->mode == COPIES_WITHHOLD) {
        copies->withheld++;
        copies->shift += copies->packets > 0; /* who has received nothing yet misses nothing */
    }
}

static uint64_t drain(Copies *copies, uint64_t count)
{
    while (copies->first != NULL && count-- > 0) {
        send_one(copies, copies->first->data, copies->first->size);
        drop_first(copies);
    }
    return copies->waiting;
}

/* -- Python ------------------------------------------------------------------------------------------------------- */

static PyObject *copies_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"loop", "seconds", NULL};
    PyObject *loop;
    double seconds;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!d", names, LoopType, &loop, &seconds))
        return NULL;
    Copies *copies = (Copies *)type->tp_alloc(type, 0);
    if (copies == NULL)
        return NULL;
    copies->loop = (Loop *)Py_NewRef(loop);
    copies->fd = -1;
    copies->seconds = seconds;
    copies->dropped_at = -INFINITY;
    copies->renumbers = true;
    return (PyObject *)copies;
}

static void copies_dealloc(PyObject *self)
{
    /* Without the lock: the thread reaches copies only through a channel that holds a reference. */
    Copies *copies = (Copies *)self;
    PyTypeObject *type = Py_TYPE(self);
    clear(copies);
    Py_CLEAR(copies->loop);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *copies_keep(PyObject *self, PyObject *given)
{
    Copies *copies = (Copies *)self;
    double seconds = PyFloat_AsDouble(given);
    if (seconds == -1.0 && PyErr_Occurred())
        return NULL;
    loop_lock(copies->loop);
    copies->seconds = seconds;
    copies->mode = COPIES_KEEP;
    loop_unlock(copies->loop);
    Py_RETURN_NONE;
}

static PyObject *copies_drain(PyObject *self, PyObject *args)
{
    Copies *copies = (Copies *)self;
    PyObject *sock;
    unsigned long long count;
    if (!PyArg_ParseTuple(args, "OK", &sock, &count))
        return NULL;
    int fd = PyObject_AsFileDescriptor(sock);
    if (fd < 0)
        return NULL;
    loop_lock(copies->loop);
    copies->fd = fd;
    uint64_t left = drain(copies, count);
    copies->fd = copies->mode == COPIES_DIRECT ? fd : -1;
    loop_unlock(copies->loop);
    return PyLong_FromUnsignedLongLong(left);
}

static PyObject *copies_direct(PyObject *self, PyObject *sock)
{
    Copies *copies = (Copies *)self;
    int fd = PyObject_AsFileDescriptor(sock);
    if (fd < 0)
        return NULL;
    loop_lock(copies->loop);
    copies->fd = fd;
    drain(copies, UINT64_MAX); /* what came since the last look goes first: order is kept */
    copies->mode = COPIES_DIRECT;
    loop_unlock(copies->loop);
    Py_RETURN_NONE;
}

static PyObject *copies_off(PyObject *self, PyObject *Py_UNUSED(none))
{
    Copies *copies = (Copies *)self;
    loop_lock(copies->loop);
    copies->mode = COPIES_OFF;
    copies->fd = -1;
    loop_unlock(copies->loop);
    Py_RETURN_NONE;
}

static PyObject *copies_withhold(PyObject *self, PyObject *Py_UNUSED(none))
{
    Copies *copies = (Copies *)self;
    loop_lock(copies->loop);
    copies->mode = COPIES_WITHHOLD;
    copies->fd = -1;
    clear(copies);
    loop_unlock(copies->loop);
    Py_RETURN_NONE;
}

static PyObject *copies_renumber(PyObject *self, PyObject *given)
{
    Copies *copies = (Copies *)self;
    int renumber = PyObject_IsTrue(given);
    if (renumber < 0)
        return NULL;
    loop_lock(copies->loop);
    copies->renumbers = renumber != 0;
    loop_unlock(copies->loop);
    Py_RETURN_NONE;
}

static PyObject *copies_clear(PyObject *self, PyObject *Py_UNUSED(none))
{
    Copies *copies = (Copies *)self;
    loop_lock(copies->loop);
    clear(copies);
    loop_unlock(copies->loop);
    Py_RETURN_NONE;
}

static PyObject *copies_inherit(PyObject *self, PyObject *args)
{
    PyObject *given;
    double since;
    if (!PyArg_ParseTuple(args, "O!d", CopiesType, &given, &since))
        return NULL;
    Copies *copies = (Copies *)self, *from = (Copies *)given;
    if (from->loop != copies->loop || from == copies) {
        PyErr_SetString(PyExc_TypeError, "inherit() takes other copies of the same loop");
        return NULL;
    }
    loop_lock(copies->loop);
    /* Both may have been kept since we began, by the thread: the last of theirs are ours already. */
    uint64_t older = from->waiting > copies->waiting ? from->waiting - copies->waiting : 0;
    Kept *after = NULL;
    unsigned long long count = 0;
    for (Kept *kept = from->first; kept != NULL && older > 0; kept = kept->next, older--)
        if (kept->at >= since) {
            Kept *copy = insert(copies, after, kept->data, kept->size, kept->at);
            if (copy == NULL)
                break;
            after = copy;
            count++;
        }
    loop_unlock(copies->loop);
    return PyLong_FromUnsignedLongLong(count);
}

static PyObject *copies_send(PyObject *self, PyObject *given)
{
    Copies *copies = (Copies *)self;
    Py_buffer packet;
    if (PyObject_GetBuffer(given, &packet, PyBUF_SIMPLE) < 0)
        return NULL;
    loop_lock(copies->loop);
    copies_put(copies, packet.buf, (size_t)packet.len, loop_now(copies->loop));
    loop_unlock(copies->loop);
    PyBuffer_Release(&packet);
    Py_RETURN_NONE;
}

static PyObject *copies_failed(PyObject *self, PyObject *args)
{
    Copies *copies = (Copies *)self;
    int error;
    long long size;
    if (!PyArg_ParseTuple(args, "iL", &error, &size))
        return NULL;
    loop_lock(copies->loop);
    copies->packets--;
    copies->octets -= size;
    copies->drops.count[reason_of(error)]++;
    loop_unlock(copies->loop);
    Py_RETURN_NONE;
}

static PyObject *copies_get(PyObject *self, void *which)
{
    Copies *copies = (Copies *)self;
    loop_lock(copies->loop);
    int64_t packets = copies->packets, octets = copies->octets;
    uint64_t waiting = copies->waiting, withheld = copies->withheld;
    double dropped_at = copies->dropped_at;
    unsigned shift = copies->shift;
    Drops drops = copies->drops;
    loop_unlock(copies->loop);
    switch ((intptr_t)which) {
    case 0:
        return PyLong_FromLongLong(packets);
    case 1:
        return PyLong_FromLongLong(octets);
    case 2:
        return PyLong_FromUnsignedLongLong(waiting);
    case 4:
        return PyLong_FromUnsignedLongLong(withheld);
    case 6:
        return PyLong_FromUnsignedLong(shift);
    case 5:
        return PyFloat_FromDouble(dropped_at);
    default:
        return drops_to_python(&drops);
    }
}

static PyMethodDef copies_methods[] = {
    {"keep", copies_keep, METH_O, NULL},
    {"drain", copies_drain, METH_VARARGS, NULL},
    {"direct", copies_direct, METH_O, NULL},
    {"off", copies_off, METH_NOARGS, NULL},
    {"withhold", copies_withhold, METH_NOARGS, NULL},
    {"renumber", copies_renumber, METH_O, NULL},
    {"clear", copies_clear, METH_NOARGS, NULL},
    {"inherit", copies_inherit, METH_VARARGS, NULL},
    {"send", copies_send, METH_O, NULL},
    {"failed", copies_failed, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef copies_getset[] = {
    {"packets", copies_get, NULL, NULL, (void *)0},
    {"octets", copies_get, NULL, NULL, (void *)1},
    {"waiting", copies_get, NULL, NULL, (void *)2},
    {"dropped", copies_get, NULL, NULL, (void *)3},
    {"withheld", copies_get, NULL, NULL, (void *)4},
    {"dropped_at", copies_get, NULL, NULL, (void *)5},
    {"shift", copies_get, NULL, NULL, (void *)6},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot copies_slots[] = {
    {Py_tp_new, copies_new},
    {Py_tp_dealloc, copies_dealloc},
    {Py_tp_methods, copies_methods},
    {Py_tp_getset, copies_getset},
    {0, NULL},
};

PyType_Spec copies_spec = {
    .name = "siprec.relay._native.Copies",
    .basicsize = sizeof(Copies),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = copies_slots,
};
