/* Load for bench/relay.py: sends RTP on many sockets, receives it on others, measures loss and delay.
 *
 *   traffic SECONDS PAYLOAD < list
 *
 * Each line of the list is one open descriptor, which the caller passes on: `S fd port` sends 50 packets a second to
 * 127.0.0.1:port, `R fd` and `F fd` receive what was relayed and what was forked. Payloads carry the time of sending.
 * Prints `sent N`, and for R and F `received N p50 MICROSECONDS p99 MICROSECONDS`.
 */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define INTERVAL 20000000 /* ns */
#define BUCKETS 200000    /* µs */

struct sender {
    int fd;
    struct sockaddr_in to;
};

static struct sender *senders;
static size_t count, room;
static uint64_t delays[2][BUCKETS + 1];
static _Atomic uint64_t received[2];
static atomic_bool over;
static int epoll;

static int64_t now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    return (int64_t)at.tv_sec * 1000000000 + at.tv_nsec;
}

/* The delay is until the kernel has the packet, so that it does not depend on when we come round; and we come round
   rarely, so that nobody pays for waking us: a server's packets normally leave its host. */
static bool take(int fd, int class)
{
    unsigned char packet[2048];
    union {
        struct cmsghdr header;
        unsigned char room[CMSG_SPACE(sizeof(struct timespec))];
    } control;
    struct iovec part = {packet, sizeof packet};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    if (recvmsg(fd, &message, MSG_DONTWAIT) < 20)
        return false;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header != NULL && header->cmsg_type == SCM_TIMESTAMPNS) {
        struct timespec at;
        int64_t sent;
        memcpy(&at, CMSG_DATA(header), sizeof at);
        memcpy(&sent, packet + 12, sizeof sent);
        int64_t delay = ((int64_t)at.tv_sec * 1000000000 + at.tv_nsec - sent) / 1000;
        delays[class][delay < 0 ? 0 : delay > BUCKETS ? BUCKETS : delay]++;
    }
    received[class]++;
    return true;
}

static void *receive(void *unused)
{
    struct epoll_event events[512];
    (void)unused;
    for (bool last = false; !last;) {
        last = atomic_load(&over);
        int ready;
        while ((ready = epoll_wait(epoll, events, 512, 0)) > 0)
            for (int i = 0; i < ready; i++)
                while (take((int)(events[i].data.u64 >> 1), (int)(events[i].data.u64 & 1)))
                    ;
        usleep(5000);
    }
    return NULL;
}

static unsigned percentile(int class, double part)
{
    uint64_t wanted = (uint64_t)(part * (double)received[class]), seen = 0;
    for (unsigned i = 0; i <= BUCKETS; i++)
        if ((seen += delays[class][i]) > wanted)
            return i;
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    double seconds = atof(argv[1]);
    size_t payload = (size_t)atoi(argv[2]);
    unsigned char packet[2048] = {0};
    char kind;
    int fd, port;
    if (payload < 8 || payload > sizeof packet - 12 || (epoll = epoll_create1(0)) < 0)
        return 2;
    while (scanf(" %c %d", &kind, &fd) == 2) {
        if (kind == 'S') {
            if (scanf("%d", &port) != 1)
                return 2;
            if (count == room && (senders = realloc(senders, (room = room * 2 + 64) * sizeof *senders)) == NULL)
                return 1;
            senders[count] = (struct sender){.fd = fd, .to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)}};
            senders[count++].to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        } else {
            struct epoll_event event = {.events = EPOLLIN};
            int on = 1;
            setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
            event.data.u64 = (uint64_t)fd << 1 | (kind == 'F');
            if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
                return 1;
        }
    }
    prctl(PR_SET_TIMERSLACK, 1);
    pthread_t thread;
    if (count == 0 || pthread_create(&thread, NULL, receive, NULL) != 0)
        return 1;
    int64_t start = now() + 10000000;
    uint64_t sent = 0, rounds = (uint64_t)(seconds * 1e9 / INTERVAL);
    packet[0] = 0x80;
    for (uint64_t round = 0; round < rounds; round++)
        for (size_t i = 0; i < count; i++) {
            int64_t due = start + (int64_t)round * INTERVAL + (int64_t)(INTERVAL * i / count), at = now();
            if (due - at > 20000) {
                struct timespec until = {.tv_sec = due / 1000000000, .tv_nsec = due % 1000000000};
                clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &until, NULL);
                at = now();
            }
            uint16_t seq = htons((uint16_t)round);
            uint32_t stamp = htonl((uint32_t)round * 160), ssrc = htonl((uint32_t)i + 1);
            memcpy(packet + 2, &seq, 2);
            memcpy(packet + 4, &stamp, 4);
            memcpy(packet + 8, &ssrc, 4);
            memcpy(packet + 12, &at, 8);
            if (sendto(senders[i].fd, packet, 12 + payload, 0, (struct sockaddr *)&senders[i].to,
                       sizeof senders[i].to) > 0)
                sent++;
        }
    double took = (double)(now() - start) / 1e9;
    for (uint64_t before = UINT64_MAX, i = 0; before != received[0] + received[1] && i < 20; i++) {
        before = received[0] + received[1]; /* until nothing comes any more */
        usleep(500000);
    }
    atomic_store(&over, true);
    pthread_join(thread, NULL);
    printf("sent %llu in %.3f\n", (unsigned long long)sent, took);
    for (int class = 0; class < 2; class++)
        printf("received %llu p50 %u p99 %u\n", (unsigned long long)received[class], percentile(class, 0.5),
               percentile(class, 0.99));
    return 0;
}
