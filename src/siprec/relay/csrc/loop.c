/* The thread, and the table of what it watches.
 *
 * An event carries (generation, slot), not a pointer: one that was fetched before its channel was removed finds a newer
 * generation, under the lock, and is ignored. A descriptor is used only under the lock and only while the channel or the
 * copies hold it, and both let go of it under the lock before Python closes the socket.
 */
#include "relay.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64
#define BURST 8
#define LARGEST 65536
#define WAKE UINT64_MAX
#define BEAT 250 /* milliseconds between two heartbeats at the most: siprec.relay.heartbeat */

void loop_lock(Loop *loop)
{
    if (pthread_mutex_trylock(&loop->lock) == 0)
        return;
    Py_BEGIN_ALLOW_THREADS
    pthread_mutex_lock(&loop->gate);
    pthread_mutex_lock(&loop->lock);
    pthread_mutex_unlock(&loop->gate);
    Py_END_ALLOW_THREADS
}

void loop_unlock(Loop *loop)
{
    pthread_mutex_unlock(&loop->lock);
}

double loop_now(const Loop *loop)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec * 1e-9 + loop->offset;
}

static int grow(Loop *loop)
{
    uint32_t before = loop->slot_count, after = before ? before * 2 : 64;
    if (after <= before)
        return ENOMEM;
    Slot *slots = realloc(loop->slots, (size_t)after * sizeof *slots);
    if (slots == NULL)
        return ENOMEM;
    for (uint32_t i = before; i < after; i++)
        slots[i] = (Slot){.channel = NULL, .generation = 0, .next_free = i + 1};
    loop->slots = slots;
    loop->slot_count = after;
    loop->free_slot = before;
    return 0;
}

/* Edge-triggered: a socket that was read until it was empty is not asked once more whether it is. */
static int arm(Loop *loop, const Channel *channel, int operation)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    event.data.u64 = (uint64_t)loop->slots[channel->slot].generation << 32 | channel->slot;
    return epoll_ctl(loop->epoll, operation, channel->fd, &event);
}

int loop_watch(Loop *loop, Channel *channel)
{
    if (!loop->running)
        return EBADF;
    if (loop->free_slot >= loop->slot_count) {
        int error = grow(loop);
        if (error != 0)
            return error;
    }
    uint32_t number = loop->free_slot;
    Slot *slot = &loop->slots[number];
    channel->slot = number;
    if (arm(loop, channel, EPOLL_CTL_ADD) < 0)
        return errno;
    loop->free_slot = slot->next_free;
    slot->channel = channel;
    channel->watched = true;
    loop->channels++;
    return 0;
}

void loop_unwatch(Loop *loop, Channel *channel)
{
    Slot *slot = &loop->slots[channel->slot];
    if (channel->fd >= 0 && loop->epoll >= 0)
        epoll_ctl(loop->epoll, EPOLL_CTL_DEL, channel->fd, NULL);
    slot->channel = NULL;
    slot->generation = (slot->generation + 1) & 0x7FFFFFFF; /* never WAKE */
    slot->next_free = loop->free_slot;
    loop->free_slot = channel->slot;
    channel->watched = false;
    loop->channels--;
    for (Channel **at = &loop->noticed; *at != NULL; at = &(*at)->next_noticed)
        if (*at == channel) {
            *at = channel->next_noticed;
            break;
        }
    channel->noticed = false;
}

/* Only a watched channel is put into the list: the table keeps it alive, and the thread takes no references. Whoever
   works on another one is Python, which looks by itself. */
void loop_notice(Channel *channel)
{
    Loop *loop = channel->loop;
    uint64_t one = 1;
    if (channel->noticed || !channel->watched)
        return;
    channel->noticed = true;
    channel->next_noticed = loop->noticed;
    loop->noticed = channel;
    if (channel->next_noticed == NULL && write(loop->notify, &one, sizeof one) < 0)
        return; /* it is readable already */
}

/* Everything that waits on one socket, but no more than a burst: then it is asked for again, after the others. */
static void serve(Loop *loop, uint64_t event, double now)
{
    uint32_t number = (uint32_t)event, generation = (uint32_t)(event >> 32);
    if (number >= loop->slot_count || loop->slots[number].generation != generation)
        return;
    Channel *channel = loop->slots[number].channel;
    if (channel == NULL || channel->fd < 0)
        return;
    for (int i = 0; i < BURST; i++) {
        Address source;
        source.length = sizeof source.of;
        ssize_t size = recvfrom(channel->fd, loop->buffer, LARGEST, MSG_DONTWAIT, &source.of.any, &source.length);
        if (size < 0) {
            if (errno == EAGAIN)
                return;
            continue; /* an ICMP error, which is thereby forgotten */
        }
        if (source.length > sizeof source.of ||
            (source.of.any.sa_family != AF_INET && source.of.any.sa_family != AF_INET6))
            continue;
        loop->datagrams++;
        channel_arrived(channel, &source, loop->buffer, (size_t)size, now);
    }
    arm(loop, channel, EPOLL_CTL_MOD);
}

static void *run(void *given)
{
    Loop *loop = given;
    struct epoll_event events[BATCH];
    bool stop = false;
    while (!stop) {
        uint64_t *beat = __atomic_load_n(&loop->beat, __ATOMIC_ACQUIRE);
        if (beat != NULL)
            __atomic_store_n(beat, __atomic_load_n(beat, __ATOMIC_RELAXED) + 1, __ATOMIC_RELAXED);
        int count = epoll_wait(loop->epoll, events, BATCH, beat != NULL ? BEAT : -1);
        if (count < 0) {
            if (errno == EINTR)
                continue;
            break;
        }
        if (count == 0)
            continue;
        pthread_mutex_lock(&loop->gate);
        pthread_mutex_lock(&loop->lock);
        pthread_mutex_unlock(&loop->gate);
        double now = loop_now(loop);
        loop->rounds++;
        for (int i = 0; i < count; i++) {
            if (events[i].data.u64 == WAKE) {
                uint64_t wakes; /* taken, or the loop would come round for it without end */
                (void)!read(loop->wake, &wakes, sizeof wakes);
            } else {
                serve(loop, events[i].data.u64, now);
            }
        }
        stop = loop->stop;
        pthread_mutex_unlock(&loop->lock);
    }
    return NULL;
}

/* -- Python ------------------------------------------------------------------------------------------------------- */

static int start(Loop *loop)
{
    struct epoll_event event = {.events = EPOLLIN};
    event.data.u64 = WAKE;
    loop->epoll = epoll_create1(EPOLL_CLOEXEC);
    loop->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    loop->notify = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (loop->epoll < 0 || loop->wake < 0 || loop->notify < 0 || epoll_ctl(loop->epoll, EPOLL_CTL_ADD, loop->wake, &event) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    loop->buffer = malloc(LARGEST);
    if (loop->buffer == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    sigset_t all, before; /* signals are for the thread that runs Python */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    loop->running = true;
    int error = pthread_create(&loop->thread, NULL, run, loop);
    if (error == 0)
        pthread_setname_np(loop->thread, "packets"); /* as top -H shows it */
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0) {
        loop->running = false;
        errno = error;
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    return 0;
}

static PyObject *loop_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "", names))
        return NULL;
    Loop *loop = (Loop *)type->tp_alloc(type, 0);
    if (loop == NULL)
        return NULL;
    loop->epoll = loop->wake = loop->notify = -1;
    pthread_mutex_init(&loop->lock, NULL);
    pthread_mutex_init(&loop->gate, NULL);
    loop->ready = true;
    if (start(loop) < 0) {
        Py_DECREF(loop);
        return NULL;
    }
    return (PyObject *)loop;
}

static void halt(Loop *loop)
{
    if (loop->running) {
        uint64_t one = 1;
        loop_lock(loop);
        loop->stop = true;
        loop_unlock(loop);
        while (write(loop->wake, &one, sizeof one) < 0 && errno == EINTR)
            ;
        Py_BEGIN_ALLOW_THREADS
        pthread_join(loop->thread, NULL);
        Py_END_ALLOW_THREADS
        loop->running = false;
    }
    if (loop->beat != NULL) {
        loop->beat = NULL;
        PyBuffer_Release(&loop->page);
    }
    for (uint32_t i = 0; i < loop->slot_count; i++) {
        Channel *channel = loop->slots[i].channel;
        if (channel != NULL) {
            loop_unwatch(loop, channel);
            Py_DECREF(channel);
        }
    }
    if (loop->epoll >= 0)
        close(loop->epoll);
    if (loop->wake >= 0)
        close(loop->wake);
    if (loop->notify >= 0)
        close(loop->notify);
    loop->epoll = loop->wake = loop->notify = -1;
}

static PyObject *loop_close(PyObject *self, PyObject *Py_UNUSED(none))
{
    halt((Loop *)self);
    Py_RETURN_NONE;
}

static PyObject *loop_heartbeat(PyObject *self, PyObject *args)
{
    Loop *loop = (Loop *)self;
    Py_buffer page;
    Py_ssize_t slot;
    uint64_t one = 1;
    if (!PyArg_ParseTuple(args, "w*n", &page, &slot))
        return NULL;
    if (loop->beat != NULL || !loop->running || slot < 0 || slot >= page.len / (Py_ssize_t)sizeof *loop->beat) {
        PyBuffer_Release(&page);
        PyErr_SetString(PyExc_ValueError, "no such slot, or the loop has one");
        return NULL;
    }
    loop->page = page;
    __atomic_store_n(&loop->beat, (uint64_t *)page.buf + slot, __ATOMIC_RELEASE);
    while (write(loop->wake, &one, sizeof one) < 0 && errno == EINTR)
        ;
    Py_RETURN_NONE;
}

static PyObject *loop_notices(PyObject *self, PyObject *Py_UNUSED(none))
{
    Loop *loop = (Loop *)self;
    PyObject *found = PyList_New(0);
    uint64_t count;
    if (found == NULL)
        return NULL;
    loop_lock(loop);
    if (loop->notify >= 0 && read(loop->notify, &count, sizeof count) < 0)
        count = 0;
    while (loop->noticed != NULL) {
        Channel *channel = loop->noticed;
        if (PyList_Append(found, (PyObject *)channel) < 0) {
            loop_unlock(loop);
            Py_DECREF(found);
            return NULL;
        }
        loop->noticed = channel->next_noticed;
        channel->noticed = false;
    }
    loop_unlock(loop);
    return found;
}

static int loop_traverse(PyObject *self, visitproc visit, void *arg)
{
    /* The table's references are no cycle to collect: a loop that runs is ended by close(). */
    Py_VISIT(Py_TYPE(self));
    (void)visit;
    (void)arg;
    return 0;
}

static void loop_dealloc(PyObject *self)
{
    Loop *loop = (Loop *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (loop->ready) {
        halt(loop);
        pthread_mutex_destroy(&loop->lock);
        pthread_mutex_destroy(&loop->gate);
    }
    free(loop->slots);
    free(loop->buffer);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *loop_get(PyObject *self, void *which)
{
    Loop *loop = (Loop *)self;
    loop_lock(loop);
    uint64_t rounds = loop->rounds, datagrams = loop->datagrams, channels = loop->channels;
    double offset = loop->offset, now = loop_now(loop);
    int notify = loop->notify;
    loop_unlock(loop);
    switch ((intptr_t)which) {
    case 0:
        return PyLong_FromUnsignedLongLong(rounds);
    case 1:
        return PyLong_FromUnsignedLongLong(datagrams);
    case 2:
        return PyLong_FromUnsignedLongLong(channels);
    case 4:
        return PyLong_FromLong(notify);
    case 5:
        return PyFloat_FromDouble(now);
    default:
        return PyFloat_FromDouble(offset);
    }
}

static int loop_set_offset(PyObject *self, PyObject *given, void *Py_UNUSED(closure))
{
    Loop *loop = (Loop *)self;
    double offset = given != NULL ? PyFloat_AsDouble(given) : 0.0;
    if (offset == -1.0 && PyErr_Occurred())
        return -1;
    loop_lock(loop);
    loop->offset = offset;
    loop_unlock(loop);
    return 0;
}

static PyMethodDef loop_methods[] = {
    {"close", loop_close, METH_NOARGS, NULL},
    {"heartbeat", loop_heartbeat, METH_VARARGS, NULL},
    {"notices", loop_notices, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef loop_getset[] = {
    {"rounds", loop_get, NULL, NULL, (void *)0},
    {"datagrams", loop_get, NULL, NULL, (void *)1},
    {"channels", loop_get, NULL, NULL, (void *)2},
    {"notify", loop_get, NULL, NULL, (void *)4},
    {"now", loop_get, NULL, NULL, (void *)5},
    {"offset", loop_get, loop_set_offset, NULL, (void *)3},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot loop_slots[] = {
    {Py_tp_new, loop_new},
    {Py_tp_dealloc, loop_dealloc},
    {Py_tp_traverse, loop_traverse},
    {Py_tp_methods, loop_methods},
    {Py_tp_getset, loop_getset},
    {0, NULL},
};

PyType_Spec loop_spec = {
    .name = "siprec.relay._native.Loop",
    .basicsize = sizeof(Loop),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = loop_slots,
};
