/* The native twin of siprec.relay's packet loop: shared declarations.
 *
 * One thread per Loop serves its sockets without the GIL. Everything it touches (channels, copies, the table of slots)
 * is read and written only under the loop's lock, by it and by Python alike; the thread itself never takes the GIL and
 * never touches a reference count, so neither can wait for the other for longer than one round of packets.
 */
#ifndef SIPREC_RELAY_H
#define SIPREC_RELAY_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <netinet/in.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

/* `length` 0: none. */
typedef struct {
    socklen_t length;
    union {
        struct sockaddr any;
        struct sockaddr_in four;
        struct sockaddr_in6 six;
    } of;
} Address;

/* Why a datagram went nowhere; the words are those of the Python loop. */
typedef enum {
    REASON_STRANGER,
    REASON_CONGESTED,
    REASON_REFUSED,
    REASON_UNREACHABLE,
    REASON_SEND,
    REASON_PREROLL,
    REASON_MEMORY,
    REASONS
} Reason;

typedef struct {
    uint64_t count[REASONS];
} Drops;

typedef struct Channel Channel;

typedef struct {
    Channel *channel; /* owned; NULL: free */
    uint32_t generation;
    uint32_t next_free;
} Slot;

typedef struct {
    PyObject_HEAD
    pthread_mutex_t lock;
    pthread_mutex_t gate; /* held while waiting for `lock`: whoever waits gets its turn */
    pthread_t thread;
    bool ready; /* the mutexes exist */
    bool running;
    bool stop; /* under `lock` */
    int epoll;
    int wake;
    double offset; /* seconds, added to the monotonic clock */
    Slot *slots;
    uint32_t slot_count;
    uint32_t free_slot; /* slot_count: none */
    uint32_t channels; /* that are watched */
    uint64_t rounds;
    uint64_t datagrams;
    uint8_t *buffer;
    uint64_t *beat; /* in the page below: counted up by the thread at each turn; NULL: nobody looks */
    Py_buffer page;
    int notify;       /* eventfd, readable while `noticed` is not empty */
    Channel *noticed; /* watched channels with something for Python to see, linked by `next_noticed` */
} Loop;

/* Copies of a stream to one recorder (siprec.relay.fork_sink.Copies). */
typedef enum { COPIES_OFF, COPIES_KEEP, COPIES_DIRECT, COPIES_WITHHOLD } CopiesMode;

typedef struct Kept {
    struct Kept *next;
    double at;
    size_t size;
    uint8_t data[];
} Kept;

typedef struct {
    PyObject_HEAD
    Loop *loop;
    CopiesMode mode;
    int fd;
    double seconds;
    Kept *first, *last;
    uint64_t waiting;
    uint64_t waiting_octets;
    int64_t packets;
    int64_t octets;
    uint64_t withheld;
    uint16_t shift; /* by so much the sequence numbers of what is sent are lower, if `renumbers` */
    bool renumbers;
    double dropped_at; /* when the newest of those that were too many had arrived */
    Drops drops;
} Copies;

#define MAX_SSRCS 16

/* What a socket carries: RTP, the RTCP of another one, or datagrams that are not looked into (T.38). */
enum { ROLE_RTP, ROLE_CONTROL, ROLE_OPAQUE };
enum { LEARN_ANY, LEARN_HOST, LEARN_SIGNALLED };

/* A source that may take over: how many packets in a row, and the state they were in. */
typedef struct {
    Address source;
    uint16_t seq; /* of its newest packet */
    uint32_t ssrc;
    uint32_t count;
    uint64_t mark; /* packets of the known source by then */
    double since, last;
} Rival;

/* A change of host that nobody has been told of. */
typedef struct Move {
    struct Move *next;
    Address from, to;
} Move;

#define MAX_MOVES 8

/* One direction of media (siprec.relay.rtp_stream.Flow). */
struct Channel {
    PyObject_HEAD
    Loop *loop;
    int fd; /* -1: closed */
    int role;
    bool watched;
    uint32_t slot;
    int learn; /* LEARN_* */
    double relearn;
    Address source, signalled, target;
    Address old;       /* had the place before `source` */
    Address tentative; /* without a source: who sent something that is not RTP */
    bool held, blocked;
    bool nat, secure; /* what is expected: Channel.expect() */
    bool pauses, paused;
    uint64_t payloads[2]; /* bit per payload type; 0: nothing is agreed on */
    Rival rival;
    double verify_at;    /* no verification before */
    uint8_t *unverified; /* a packet of `rival` that Python is to authenticate */
    size_t unverified_size;
    Move *moves;
    int move_count;
    Channel *next_noticed;
    bool noticed;
    Channel *peer;  /* owned */
    Channel *media; /* owned; of a control channel: that of the RTP */
    Copies **forks; /* owned */
    Py_ssize_t fork_count;
    uint64_t packets, octets, rtcp_packets, rtcp_octets, gaps, late, unsent;
    double since, last, heard;
    int64_t next_seq, ssrc; /* -1: none yet */
    uint32_t timestamp;
    uint32_t ssrcs[MAX_SSRCS];
    int ssrc_count;
    Drops drops;
};

extern PyTypeObject *LoopType, *ChannelType, *CopiesType;
extern PyType_Spec loop_spec, channel_spec, copies_spec;

/* address.c; the conversions return -1 / NULL with an exception set */
int address_from_python(PyObject *given, Address *out);
PyObject *address_to_python(const Address *address);
bool address_same(const Address *a, const Address *b);
bool address_same_host(const Address *a, const Address *b);

/* module.c */
Reason reason_of(int error);
PyObject *drops_to_python(const Drops *drops);

/* loop.c; lock with the GIL held, which is let go while waiting */
void loop_lock(Loop *loop);
void loop_unlock(Loop *loop);
double loop_now(const Loop *loop);
int loop_watch(Loop *loop, Channel *channel);    /* with the lock; an errno, or 0 */
void loop_unwatch(Loop *loop, Channel *channel); /* with the lock; the caller drops the reference the slot held */
void loop_notice(Channel *channel);              /* with the lock: Python shall look at it */

/* learn.c, with the lock */
void channel_retarget(Channel *channel);
bool channel_admit(Channel *channel, const Address *source, const uint8_t *packet, size_t size, double now);
bool channel_admit_other(Channel *channel, const Address *source, bool rtcp, double now);
bool channel_admit_control(Channel *channel, const Address *source, double now);
Address channel_control_target(const Channel *channel);
void channel_signal(Channel *channel, const Address *address, bool held, double now);
void channel_adopt(Channel *channel, const Address *source, bool adopt, double now);
void channel_forget(Channel *channel); /* what is allocated */

/* channel.c, with the lock */
void channel_arrived(Channel *channel, const Address *source, const uint8_t *packet, size_t size, double now);
void channel_resequence(Channel *channel, uint16_t seq, uint32_t ssrc); /* one that is not the next of its source */

/* channel_fields.c */
extern PyGetSetDef channel_getset[];

/* copies.c, with the lock */
void copies_put(Copies *copies, const uint8_t *packet, size_t size, double now);

#endif
