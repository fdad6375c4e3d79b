/*
 * calls SEED COUNT TLS-PORT PLAIN-PORT HOST CA CHAIN KEY [trace]
 *
 * Makes COUNT socket calls at random inside an attached cgroup, and looks whether what must hold still holds. The same
 * seed makes the same calls, as each step draws from a seed of its own, whatever the steps before it gave. Only what
 * threads and children do at the same time depends on the scheduler: with these a seed repeats the mixture, not the order.
 *
 * Two servers echo on 127.0.0.1: TLS-PORT speaks TLS as HOST, PLAIN-PORT does not. With `trace`, stderr has each call.
 *
 * What must hold:
 * 1. set and get at level 205 give errnos of the contract only;
 * 2. a get writes nothing behind the buffer, and a refused one nothing at the buffer's beginning;
 * 3. a socket gets back what it has sent, and nothing else; an accepted TLS socket gets nothing from a plain one;
 * 4. sockets without options of TLS are not affected;
 * 5. a TLS socket never connects to who does not speak TLS;
 * 6. getpeername of a connected socket shows the peer that it has asked for.
 *
 * Ends with 1 and a line `wrong: ...` if one does not; else with 0 and one line of JSON, which counts calls by errno.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LEVEL = 205, MPTCP = 262 };
enum { SLOTS = 16, ALL = (1 << SLOTS) - 1, THREADS = 4 };
/* Longest length that is tried, bytes behind it that must stay, bytes kept of what a slot has sent, a page. */
enum { LONGEST = 65536, CANARY = 64, STREAM = 32768, PAGE = 4096 };
enum { CONTROL_EVERY = 200, ERRNOS = 256, TAGS = 1 << 16 };

enum call {
    SOCKET, BIND, LISTEN, CONNECT, ACCEPT, SET_TLS, GET_TLS, SET, GET, SEND, FASTOPEN, RECV, SHUTDOWN, POLL,
    GETPEERNAME, GETSOCKNAME, DUP, PASS, CLOSE, CALLS
};
static const char *const call_names[CALLS] = {
    "socket", "bind", "listen", "connect", "accept", "set_tls", "get_tls", "set", "get", "send", "fastopen", "recv",
    "shutdown", "poll", "getpeername", "getsockname", "dup", "pass", "close",
};

/* What was looked at, so that a summary shows whether a run was worth something. */
enum check { TLS_UP, PLAIN_UP, TLS_REFUSED, ECHO_TLS, ECHO_PLAIN, ACCEPTED_TLS, CONTROLS, CHILDREN, KILLED, THREADED, CHECKS };
static const char *const check_names[CHECKS] = {
    "tls_connects", "plain_connects", "tls_to_plain_refused", "tls_bytes_back", "plain_bytes_back", "tls_accepted",
    "controls", "children", "children_killed", "threads",
};

/* Where a slot has connected to. TO_LISTENER: a slot that listens, and does not speak TLS. OTHER: nothing is known of it. */
enum target { NOWHERE, TO_TLS, TO_PLAIN, TO_LISTENER, OTHER };

/* A socket. All but `fd` is what the steps know of it, and only the main thread touches it. */
struct slot {
    _Atomic int fd;
    /* Threads, a child, or another slot have it, too: then nothing is known of it. */
    bool shared;
    /* Stream of TCP or MPTCP: what can be a TLS socket, or must refuse to be one. */
    bool stream;
    /* Has neither connected nor listened. */
    bool fresh;
    /* A set at level 205 was tried while it was fresh, or its protocol is 205. */
    bool tls;
    /* A set at level 205 was tried at any time. */
    bool touched;
    bool listening;
    /* Came out of a TLS socket that listens. */
    bool accepted_tls;
    /* connect has begun, and nobody has seen it end. */
    bool pending;
    /* Out-of-band bytes were sent or taken, so that the stream has a hole. */
    bool holes;
    enum target target;
    uint16_t port;
    size_t sent_len, back_len;
    char sent[STREAM];
};

/* Who makes steps: main, a child, or a thread. */
struct actor {
    uint64_t seed;
    /* State of the step's random numbers. */
    uint64_t random;
    /* Slots that it may use. */
    unsigned mask;
    /* Others use these slots at the same time: file descriptors may be somebody else's by now. */
    bool racing;
    /* May not start children or threads. */
    bool leaf;
    unsigned steps;
    unsigned tag;
    /* LONGEST + CANARY bytes; the same, but read-only; and the end of a page before one that is not there. */
    uint8_t *buffer, *fixed, *edge;
};

/* What children share with their parent. */
struct tally {
    _Atomic unsigned calls[CALLS][ERRNOS];
    _Atomic unsigned checks[CHECKS];
    _Atomic bool wrong;
    char message[512];
};

static struct slot slots[SLOTS];
static struct tally *tally;
static bool tracing;
/* 1 for each tag that a socket has sent on which no option of TLS was ever tried. */
static uint8_t plain_tag[TAGS];
static uint16_t tls_port, plain_port;
static const char *host, *files[3];
/* The files' texts, to be set as PEM; empty if too long. */
static char pem[3][PAGE];

static void step(struct actor *actor, unsigned number);

/* --- random numbers, words to the reader --- */

static uint64_t next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Neighbouring seeds must not make similar sequences, and xorshift must not begin with zero. */
static uint64_t mix(uint64_t seed)
{
    seed += 0x9e3779b97f4a7c15;
    seed = (seed ^ (seed >> 30)) * 0xbf58476d1ce4e5b9;
    seed = (seed ^ (seed >> 27)) * 0x94d049bb133111eb;
    seed ^= seed >> 31;
    return seed != 0 ? seed : 1;
}

static unsigned below(struct actor *actor, unsigned limit)
{
    return (unsigned)((next(&actor->random) >> 20) % limit);
}

static bool one_in(struct actor *actor, unsigned count)
{
    return below(actor, count) == 0;
}

#define PICK(actor, array) ((array)[below(actor, sizeof(array) / sizeof((array)[0]))])

static void wrong(const struct actor *actor, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Only the first counts: the others may follow from it. */
static void wrong(const struct actor *actor, const char *format, ...)
{
    char text[400];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (!atomic_exchange(&tally->wrong, true))
        snprintf(tally->message, sizeof(tally->message), "%s (seed %llu, step %u)", text,
                 (unsigned long long)actor->seed, actor->steps);
}

static const char *errno_name(int code)
{
    const char *name = code == 0 ? "ok" : strerrorname_np(code);

    return name != NULL ? name : "unknown";
}

/* Counts a call; its errno, or zero. */
static int note(struct actor *actor, enum call call, int slot, long result)
{
    int code = result < 0 ? errno : 0;

    atomic_fetch_add(&tally->calls[call][code < ERRNOS ? code : ERRNOS - 1], 1);
    if (tracing)
        fprintf(stderr, "%llu %u: %s slot %d: %ld %s\n", (unsigned long long)actor->seed, actor->steps,
                call_names[call], slot, result, errno_name(code));
    return code;
}

static void trace(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void trace(const char *format, ...)
{
    va_list args;

    if (!tracing)
        return;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
}

static void seen(enum check check, unsigned count)
{
    atomic_fetch_add(&tally->checks[check], count);
}

/* --- slots --- */

/* What is known of a slot; nothing if others have it, too. */
static struct slot *known(const struct actor *actor, int slot)
{
    return actor->racing || slots[slot].shared ? NULL : &slots[slot];
}

static int any_slot(struct actor *actor)
{
    int slot;

    do
        slot = (int)below(actor, SLOTS);
    while ((actor->mask >> slot & 1) == 0);
    return slot;
}

/* A slot with a socket, if one is found soon. */
static int open_slot(struct actor *actor)
{
    int slot = any_slot(actor);

    for (int tries = 0; tries < 12 && slots[slot].fd < 0; tries++)
        slot = any_slot(actor);
    return slot;
}

/* The beginning of a slot's next life. The bytes in `sent` go with their length. */
static void forget(struct slot *it)
{
    it->shared = it->stream = it->fresh = it->tls = it->touched = it->listening = false;
    it->accepted_tls = it->pending = it->holes = false;
    it->target = NOWHERE;
    it->port = 0;
    it->sent_len = it->back_len = 0;
}

static void put(struct actor *actor, int slot, int fd)
{
    int old = atomic_exchange(&slots[slot].fd, fd);

    if (old >= 0)
        note(actor, CLOSE, slot, close(old));
    if (!actor->racing)
        forget(&slots[slot]);
}

/* No call on it may wait for long, whoever makes it. */
static void bound_waiting(int fd)
{
    struct timeval receive = {.tv_usec = 100000}, send = {.tv_sec = 1};

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &receive, sizeof(receive));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &send, sizeof(send));
}

static int number_of(int fd, int level, int option)
{
    int value = -1;
    socklen_t length = sizeof(value);

    return getsockopt(fd, level, option, &value, &length) == 0 ? value : -1;
}

static int create(struct actor *actor, int slot, int family, int type, int protocol)
{
    int fd = socket(family, type, protocol);
    int code = note(actor, SOCKET, slot, fd);
    int base = type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC);

    trace("    family %d, type %d, protocol %d\n", family, type, protocol);
    if (code != 0)
        return -1;
    bound_waiting(fd);
    put(actor, slot, fd);
    if (!actor->racing) {
        slots[slot].fresh = true;
        slots[slot].stream = (family == AF_INET || family == AF_INET6) && base == SOCK_STREAM;
        slots[slot].tls = slots[slot].touched = protocol == LEVEL && slots[slot].stream;
    }
    return fd;
}

static void any_socket(struct actor *actor)
{
    static const int families[] = {AF_INET, AF_INET, AF_INET, AF_INET, AF_INET6, AF_INET6, AF_UNIX};
    static const int types[] = {SOCK_STREAM, SOCK_STREAM, SOCK_STREAM, SOCK_STREAM, SOCK_STREAM,
                                SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET};
    static const int protocols[] = {0, 0, 0, IPPROTO_TCP, LEVEL, LEVEL, MPTCP, 17};
    int slot = any_slot(actor);

    for (int tries = 0; tries < 4 && slots[slot].fd >= 0; tries++)
        slot = any_slot(actor);
    int family = PICK(actor, families), type = PICK(actor, types), protocol = PICK(actor, protocols);
    type |= (one_in(actor, 3) ? SOCK_NONBLOCK : 0) | (one_in(actor, 3) ? SOCK_CLOEXEC : 0);
    create(actor, slot, family, type, protocol);
}

/* --- addresses --- */

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr_un local;
    struct sockaddr_storage storage;
};

static uint16_t port_of(const union address *addr)
{
    return ntohs(addr->any.sa_family == AF_INET6 ? addr->v6.sin6_port : addr->v4.sin_port);
}

/* 127.0.0.1, mapped for a socket of IPv6, or ::1. */
static socklen_t loopback(union address *addr, int family, uint16_t port, bool mapped)
{
    memset(addr, 0, sizeof(*addr));
    if (family == AF_INET6) {
        addr->v6.sin6_family = AF_INET6;
        addr->v6.sin6_port = htons(port);
        addr->v6.sin6_addr = in6addr_loopback;
        if (mapped) {
            memset(addr->v6.sin6_addr.s6_addr + 10, 0xff, 2);
            addr->v6.sin6_addr.s6_addr[12] = 127;
        }
        return sizeof(addr->v6);
    }
    addr->v4.sin_family = AF_INET;
    addr->v4.sin_port = htons(port);
    addr->v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return sizeof(addr->v4);
}

/* Pointers that nothing is behind. A page that was unmapped would not do: threads' stacks and the C library's memory move
 * into the hole. Nobody gets the lowest pages, nor the kernel's, nor one without permissions. */
static void *bad_pointer(struct actor *actor)
{
    static const uintptr_t lost[] = {0, 0, 0x1000, 0x7ff8, 0xffff888000000000, 0x8000000000000000};
    uintptr_t pointer = PICK(actor, lost);

    return one_in(actor, 4) ? (void *)actor->edge : (void *)pointer;
}

/* A length near the right one, or far away from it. */
static int odd_length(struct actor *actor, int right)
{
    static const int lengths[] = {0, 1, 2, 4, 8, 16, 255, 256, 257, PAGE, PAGE + 1, LONGEST, -1, -16, INT_MIN};

    switch (below(actor, 6)) {
    case 0:
        return right + 1;
    case 1:
        return right > 0 ? right - 1 : 0;
    default:
        return PICK(actor, lengths);
    }
}

/* --- bind, listen, connect, accept --- */

static void bind_any(struct actor *actor, int slot)
{
    union address addr;
    int fd = slots[slot].fd;
    socklen_t length = loopback(&addr, number_of(fd, SOL_SOCKET, SO_DOMAIN), 0, one_in(actor, 4));

    if (one_in(actor, 10))
        length = (socklen_t)odd_length(actor, (int)length);
    /* More than the kernel takes is refused before it is read. */
    note(actor, BIND, slot, bind(fd, one_in(actor, 16) ? bad_pointer(actor) : &addr, length));
}

static void listen_on(struct actor *actor, int slot)
{
    static const int backlogs[] = {0, 1, 16, 128, -1};
    struct slot *it = known(actor, slot);
    int code = note(actor, LISTEN, slot, listen(slots[slot].fd, PICK(actor, backlogs)));

    if (it != NULL && code == 0) {
        it->listening = true;
        it->fresh = false;
    }
}

/* Whether a slot must not be connected: a TLS socket, and a peer that does not speak TLS. */
static bool must_not(const struct slot *it)
{
    return it->tls && (it->target == TO_PLAIN || it->target == TO_LISTENER);
}

/* connect has returned `code`, after it was asked for `target`. */
static void has_connected(struct actor *actor, int slot, int code, enum target target, uint16_t port)
{
    struct slot *it = known(actor, slot);

    if (it == NULL || !it->stream)
        return;
    /* To a TLS server in plaintext: what comes back is not ours. */
    if (target == TO_TLS && !it->tls)
        target = OTHER;
    switch (code) {
    case 0:
    case EINPROGRESS:
    case EINTR:
        /* Zero after a pending one is that one's success: had it failed, this call would have said so. */
        if (it->pending && code == 0) {
            it->pending = false;
        } else if (it->pending && code == EINTR) {
            /* Has waited for the earlier one, or has begun a new one. */
            it->target = OTHER;
        } else {
            it->target = target;
            it->port = port;
            it->pending = code != 0;
            it->fresh = it->holes = false;
            it->sent_len = it->back_len = 0;
        }
        if (code == 0 && it->target != OTHER)
            seen(it->tls ? TLS_UP : PLAIN_UP, 1);
        break;
    case EISCONN:
        if (it->listening)
            return;
        it->pending = false;
        break;
    case EALREADY:
        return;
    case EFAULT:
    case EINVAL:
    case EAFNOSUPPORT:
        /* The address was no good; an earlier connect may be on its way. */
        return;
    default:
        it->pending = false;
        if (it->tls && (target == TO_PLAIN || target == TO_LISTENER))
            seen(TLS_REFUSED, 1);
        it->target = NOWHERE;
        return;
    }
    if ((code == 0 || code == EISCONN) && must_not(it))
        wrong(actor, "TLS socket of slot %d is connected to plain port %u", slot, it->port);
}

/* A listening slot's address and what its peers must speak, if one is found soon. */
static bool own_listener(struct actor *actor, union address *addr, socklen_t *length, enum target *target)
{
    for (int tries = 0; tries < 8; tries++) {
        int slot = any_slot(actor), fd = slots[slot].fd;
        struct slot *it = known(actor, slot);

        if (fd < 0 || number_of(fd, SOL_SOCKET, SO_ACCEPTCONN) != 1)
            continue;
        *length = sizeof(*addr);
        if (getsockname(fd, &addr->any, length) != 0 || addr->any.sa_family == AF_UNIX)
            continue;
        /* To the unspecified address would be a question to a name server. */
        if (addr->any.sa_family == AF_INET)
            addr->v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        else if (IN6_IS_ADDR_UNSPECIFIED(&addr->v6.sin6_addr))
            addr->v6.sin6_addr = in6addr_loopback;
        /* Nothing else than a TLS socket answers a TLS client. */
        *target = it != NULL && it->stream && it->listening && !it->touched ? TO_LISTENER : OTHER;
        return true;
    }
    return false;
}

/* An alarm, besides the socket's own limit, ends a connect that waits; threads have to do with the latter. */
static int limited_connect(const struct actor *actor, int fd, const struct sockaddr *addr, socklen_t length)
{
    if (!actor->racing)
        alarm(3);
    int result = connect(fd, addr, length);
    int code = errno;
    if (!actor->racing)
        alarm(0);
    errno = code;
    return result;
}

static void disconnect(struct actor *actor, int slot)
{
    union address addr = {.any.sa_family = AF_UNSPEC};
    struct slot *it = known(actor, slot);
    int code = note(actor, CONNECT, slot, limited_connect(actor, slots[slot].fd, &addr.any, sizeof(addr.v4)));

    if (it != NULL && it->stream && code == 0) {
        it->pending = it->listening = it->holes = false;
        it->target = NOWHERE;
        it->sent_len = it->back_len = 0;
    }
}

enum where { THE_TLS_SERVER, THE_PLAIN_SERVER, A_CLOSED_PORT, A_LISTENER };

static void connect_to(struct actor *actor, int slot, enum where where)
{
    static const enum target targets[] = {TO_TLS, TO_PLAIN, OTHER, OTHER};
    uint16_t ports[] = {tls_port, plain_port, 1, 1};
    union address addr;
    int fd = slots[slot].fd;
    bool mapped = !one_in(actor, 8);
    socklen_t length = loopback(&addr, number_of(fd, SOL_SOCKET, SO_DOMAIN), ports[where], mapped);
    enum target target = targets[where];

    if (where == A_LISTENER && !own_listener(actor, &addr, &length, &target))
        return;
    int code = note(actor, CONNECT, slot, limited_connect(actor, fd, &addr.any, length));
    trace("    to port %u\n", port_of(&addr));
    has_connected(actor, slot, code, target, port_of(&addr));
}

static void connect_badly(struct actor *actor, int slot)
{
    union address addr;
    int fd = slots[slot].fd;
    socklen_t length = loopback(&addr, number_of(fd, SOL_SOCKET, SO_DOMAIN), plain_port, true);
    bool lost = one_in(actor, 2);
    int odd = lost ? (int)length : odd_length(actor, (int)length);
    int code = note(actor, CONNECT, slot,
                    limited_connect(actor, fd, lost ? bad_pointer(actor) : &addr.any, (socklen_t)odd));

    /* A length that is too long, but not too long for the kernel, is good enough. */
    has_connected(actor, slot, code, TO_PLAIN, plain_port);
}

static void connect_any(struct actor *actor, int slot)
{
    unsigned choice = below(actor, 16);

    if (choice == 0)
        connect_badly(actor, slot);
    else if (choice == 1)
        disconnect(actor, slot);
    else if (choice < 9)
        connect_to(actor, slot, THE_TLS_SERVER);
    else
        connect_to(actor, slot, choice < 12 ? THE_PLAIN_SERVER : choice == 12 ? A_CLOSED_PORT : A_LISTENER);
}

static void accept_of(struct actor *actor, int slot)
{
    int fd = slots[slot].fd, into = any_slot(actor);
    struct slot *it = known(actor, slot);
    bool from_tls = it != NULL && it->listening && it->tls;
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    union address addr;
    socklen_t length = sizeof(addr);

    poll(&ready, 1, (int)below(actor, 20));
    /* Multipath TCP's accept does not know the limit of waiting (6.18). */
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    int conn = accept4(fd, one_in(actor, 8) ? bad_pointer(actor) : &addr.any, &length, one_in(actor, 2) ? SOCK_NONBLOCK : 0);
    if (note(actor, ACCEPT, slot, conn) != 0)
        return;
    bound_waiting(conn);
    put(actor, into, conn);
    if (!actor->racing) {
        slots[into].stream = true;
        slots[into].target = OTHER;
        slots[into].accepted_tls = from_tls;
    }
    if (from_tls)
        seen(ACCEPTED_TLS, 1);
}

static void accept_any(struct actor *actor)
{
    int slot = open_slot(actor);

    for (int tries = 0; tries < 8 && number_of(slots[slot].fd, SOL_SOCKET, SO_ACCEPTCONN) != 1; tries++)
        slot = any_slot(actor);
    accept_of(actor, slot);
}

/* --- options --- */

static int put_text(uint8_t *to, const char *text)
{
    size_t length = strlen(text) + 1;

    memcpy(to, text, length);
    return (int)length;
}

static int put_number(uint8_t *to, uint64_t value, int length)
{
    /* Little endian or not: small numbers only fit whole. */
    uint32_t half = (uint32_t)value;

    if (length == 8)
        memcpy(to, &value, 8);
    else
        memcpy(to, &half, 4);
    return length;
}

static void put_random(struct actor *actor, uint8_t *to, int length)
{
    for (int index = 0; index < length; index += 8) {
        uint64_t word = next(&actor->random);

        memcpy(to + index, &word, 8);
    }
}

/* A value that an option at level 205 would take, or nearly so. Its right length. */
static int value_of(struct actor *actor, int option, uint8_t *to)
{
    static const char *const alpns[] = {"h2,http/1.1", "http/1.1", "", ",", "h2,", "x,y,z", "h2,h2"};
    static const char *const ciphers[] = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384",
                                          "TLS_CHACHA20_POLY1305_SHA256", "ECDHE-RSA-AES128-GCM-SHA256",
                                          "ECDHE-ECDSA-AES256-GCM-SHA384", "NULL-SHA", "none", "", "::"};
    static const char *const hosts[] = {"other.ssa.test", "127.0.0.1", "::1", "", "..", "-a", "a b", "*.ssa.test"};
    /* Files that never end, or are none. */
    static const char *const paths[] = {"/dev/zero", "/dev/null", "/", "", "../none", "/proc/self/maps",
                                        "-----BEGIN", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"};
    static const uint64_t longs[] = {0, 1, 600, 7200, UINT64_MAX, INT64_MAX};
    static const int versions[] = {0x0303, 0x0304, 0x0303, 0x0304, 0x0302, 0x0305, 0};

    switch (option) {
    case 85:
    case 86:
        return put_text(to, one_in(actor, 5) ? PICK(actor, hosts) : host);
    case 87:
    case 88:
    case 89:
        if (one_in(actor, 6))
            return put_text(to, PICK(actor, paths));
        return put_text(to, one_in(actor, 3) ? pem[option - 87] : files[option - 87]);
    case 90:
        return put_text(to, PICK(actor, alpns));
    case 91:
        return put_number(to, PICK(actor, longs), 8);
    case 92:
    case 110:
        return put_text(to, PICK(actor, ciphers));
    case 97: {
        const char *first = PICK(actor, ciphers), *second = PICK(actor, ciphers);

        return snprintf((char *)to, 256, "%s%s%s", first, one_in(actor, 2) ? ":" : "", second) + 1;
    }
    case 94:
    case 102: case 103: case 104: case 105: case 106:
    case 108:
    case 122:
        return put_number(to, below(actor, 3), 4);
    case 111:
    case 112:
        return put_number(to, (uint64_t)PICK(actor, versions), 4);
    case 107: {
        uint64_t id = next(&actor->random);
        socklen_t length = sizeof(id);

        if (!one_in(actor, 6))
            getsockopt(slots[open_slot(actor)].fd, LEVEL, one_in(actor, 2) ? 96 : 107, &id, &length);
        return put_number(to, id, 8);
    }
    default: {
        static const int lengths[] = {4, 8, 32, 256};
        int length = PICK(actor, lengths);

        put_random(actor, to, length);
        return length;
    }
    }
}

static int tls_option(struct actor *actor)
{
    static const int good[] = {85, 85, 85, 86, 87, 87, 88, 89, 90, 91, 92, 93, 94, 95, 96, 97, 98, 100, 102, 103, 104, 105,
                               106, 107, 107, 107, 108, 109, 110, 111, 112, 113, 122, 130, 131, 132, 133, 147, 150};

    return one_in(actor, 4) ? 80 + (int)below(actor, 81) : PICK(actor, good);
}

/* What the contract has, and what a file descriptor gives that another thread has closed. */
static void check_errno(struct actor *actor, const char *call, int slot, int option, int code)
{
    switch (code) {
    case 0: case EINVAL: case ENOPROTOOPT: case EOPNOTSUPP: case EPROTO: case ENOTCONN: case ENOBUFS: case EBADFD:
    case EFAULT: case ENOENT: case EMSGSIZE: case ENOMEM:
        return;
    case EBADF: case ENOTSOCK:
        if (actor->racing || slots[slot].fd < 0)
            return;
    }
    wrong(actor, "%s of option %d on slot %d gives %s", call, option, slot, errno_name(code));
}

/* The pointer to a value of `length` bytes that is in the buffer now: most often there, else at the end of a page,
 * overrunning it, on a read-only page, or nowhere. */
static uint8_t *place(struct actor *actor, int length, int *room)
{
    int inside = length > 0 && length <= PAGE ? length : 0;

    switch (below(actor, 12)) {
    case 0:
        *room = 0;
        return bad_pointer(actor);
    case 1:
        *room = 0;
        return actor->fixed;
    case 2:
        if (inside > 0 && one_in(actor, 2))
            inside -= 1 + (int)below(actor, inside > 8 ? 8 : (unsigned)inside);
        memcpy(actor->edge - inside, actor->buffer, (size_t)inside);
        *room = inside;
        return actor->edge - inside;
    default:
        *room = LONGEST;
        return actor->buffer;
    }
}

static void set_tls_to(struct actor *actor, int slot, int option, const void *value, int length)
{
    struct slot *it = known(actor, slot);
    int code = note(actor, SET_TLS, slot, setsockopt(slots[slot].fd, LEVEL, option, value, (socklen_t)length));

    trace("    option %d, length %d, pointer %p\n", option, length, value);
    check_errno(actor, "set", slot, option, code);
    if (it == NULL || !it->stream || it->fd < 0)
        return;
    it->touched = true;
#ifndef STRICT
    /* The kernel refuses these before it asks a hook, so the socket stays what it is. -DSTRICT counts them, too. */
    if (length < 0 || code == EFAULT)
        return;
#endif
    if (it->fresh)
        it->tls = true;
}

static void set_tls(struct actor *actor, int slot, int option)
{
    int right = value_of(actor, option, actor->buffer), room;
    int length = one_in(actor, 3) ? odd_length(actor, right) : right;
    const uint8_t *value = one_in(actor, 3) ? place(actor, length, &room) : actor->buffer;

    set_tls_to(actor, slot, option, value, length);
}

static void set_well(struct actor *actor, int slot, int option)
{
    int length = value_of(actor, option, actor->buffer);

    set_tls_to(actor, slot, option, actor->buffer, length);
}

static bool intact(const uint8_t *from, int length, uint8_t pattern)
{
    for (int index = 0; index < length; index++)
        if (from[index] != pattern)
            return false;
    return true;
}

static void get_tls(struct actor *actor, int slot, int option)
{
    static const int rights[] = {4, 4, 8, 8, 32, 256, PAGE};
    uint8_t pattern = (uint8_t)(1 + below(actor, 255));
    int given = one_in(actor, 3) ? odd_length(actor, 8) : PICK(actor, rights), room;
    int behind = given > 0 ? given : 0;

    memset(actor->buffer, pattern, (size_t)(behind > PAGE ? LONGEST : PAGE) + CANARY);
    uint8_t *value = one_in(actor, 4) ? place(actor, given, &room) : (room = LONGEST, actor->buffer);
    socklen_t length = (socklen_t)given;
    bool no_length = one_in(actor, 20);
    void *length_at = no_length ? bad_pointer(actor) : &length;
    int code = note(actor, GET_TLS, slot, getsockopt(slots[slot].fd, LEVEL, option, value, length_at));

    trace("    option %d, length %d, pointer %p\n", option, given, (void *)value);
    check_errno(actor, "get", slot, option, code);
    if (value == actor->buffer && !intact(value + behind, CANARY, pattern))
        wrong(actor, "get of option %d writes behind %d bytes", option, given);
    if (code == 0 && !no_length && (int)length > given)
        wrong(actor, "get of option %d gives %d bytes of %d", option, (int)length, given);
    /* A buffer that ends too early may be filled up to there: so the kernel copies. */
    if (code != 0 && room >= behind && room > 0 && !intact(value, room < 8 ? room : 8, pattern))
        wrong(actor, "get of option %d gives %s and writes", option, errno_name(code));
}

/* Options of other levels that do no harm to the machine: no filters, no modules, no tables of the firewall, no memory
 * beyond its limits, and nothing that lets a call or a close take long. */
static int harmless(struct actor *actor, int level)
{
    static const int sol[] = {SO_DEBUG, SO_REUSEADDR, SO_TYPE, SO_ERROR, SO_DONTROUTE, SO_BROADCAST, SO_SNDBUF, SO_RCVBUF,
                              SO_KEEPALIVE, SO_OOBINLINE, SO_PRIORITY, SO_LINGER, SO_REUSEPORT, SO_PASSCRED, SO_RCVLOWAT,
                              SO_BINDTODEVICE, SO_TIMESTAMP, SO_ACCEPTCONN, SO_PEERSEC, SO_MARK, SO_TIMESTAMPING,
                              SO_PROTOCOL, SO_DOMAIN, SO_WIFI_STATUS, SO_INCOMING_CPU, SO_MEMINFO, SO_COOKIE, SO_ZEROCOPY,
                              SO_PEERGROUPS, SO_NETNS_COOKIE};
    static const int tcp[] = {TCP_NODELAY, TCP_MAXSEG, TCP_CORK, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_SYNCNT,
                              TCP_LINGER2, TCP_DEFER_ACCEPT, TCP_WINDOW_CLAMP, TCP_INFO, TCP_QUICKACK, 16, 17,
                              TCP_USER_TIMEOUT, 24, TCP_NOTSENT_LOWAT, TCP_CC_INFO, TCP_SAVE_SYN, TCP_SAVED_SYN,
                              TCP_FASTOPEN_CONNECT, TCP_FASTOPEN_CONNECT, TCP_FASTOPEN_NO_COOKIE, TCP_INQ, 40, 41, 42, 43};
    static const int ip[] = {IP_TOS, IP_TTL, IP_HDRINCL, IP_OPTIONS, IP_RECVOPTS, IP_RETOPTS, IP_PKTINFO, IP_PKTOPTIONS,
                             IP_MTU_DISCOVER, IP_RECVERR, IP_RECVTTL, IP_RECVTOS, IP_MTU, IP_FREEBIND, IP_MINTTL,
                             IP_BIND_ADDRESS_NO_PORT, IP_MULTICAST_IF, IP_MULTICAST_TTL, IP_MULTICAST_LOOP, IP_UNICAST_IF,
                             51, 52};
    static const int ip6[] = {IPV6_ADDRFORM, 2, 3, 4, 5, 6, IPV6_CHECKSUM, 8, IPV6_NEXTHOP, IPV6_UNICAST_HOPS,
                              IPV6_MULTICAST_IF, IPV6_MULTICAST_HOPS, IPV6_MULTICAST_LOOP, IPV6_MTU_DISCOVER, IPV6_MTU,
                              IPV6_RECVERR, IPV6_V6ONLY, 33, 49, 51, 56, IPV6_RTHDR, IPV6_DSTOPTS, 60, 61, IPV6_PATHMTU,
                              66, IPV6_TCLASS, 70, 72, 73, 76};

    switch (level) {
    case SOL_SOCKET:
        return PICK(actor, sol);
    case IPPROTO_TCP:
        return PICK(actor, tcp);
    case IPPROTO_IP:
        return PICK(actor, ip);
    case IPPROTO_IPV6:
        return PICK(actor, ip6);
    default:
        return (int)below(actor, 40);
    }
}

static int other_level(struct actor *actor)
{
    static const int levels[] = {SOL_SOCKET, SOL_SOCKET, SOL_SOCKET, IPPROTO_TCP, IPPROTO_TCP, IPPROTO_TCP, IPPROTO_IP,
                                 IPPROTO_IP, IPPROTO_IPV6, IPPROTO_IPV6, 17, 132, 136, 204, 206, 255, 282, 284, -1,
                                 INT_MIN, INT_MAX, LEVEL + 256, LEVEL << 8};

    return PICK(actor, levels);
}

static void set_other(struct actor *actor, int slot)
{
    static const int numbers[] = {0, 1, 1, 2, 7, 100, 5000, 60000, -1};
    int level = other_level(actor), option = harmless(actor, level), right = 4, room;
    const uint8_t *value = actor->buffer;

    put_number(actor->buffer, (uint64_t)PICK(actor, numbers), 4);
    put_number(actor->buffer + 4, below(actor, 2), 4);
    if (level == SOL_SOCKET && option == SO_MARK)
        put_number(actor->buffer, below(actor, 8), 4);
    if (level == SOL_SOCKET && option == SO_BINDTODEVICE)
        right = put_text(actor->buffer, "lo");
    if (level == SOL_SOCKET && option == SO_LINGER) {
        /* close would wait for longer. */
        put_number(actor->buffer, below(actor, 2), 4);
        right = 8;
    }
    int length = one_in(actor, 3) ? odd_length(actor, right) : right;
    if (one_in(actor, 6) && option != SO_LINGER)
        value = place(actor, length, &room);
    int code = note(actor, SET, slot, setsockopt(slots[slot].fd, level, option, value, (socklen_t)length));

    trace("    level %d, option %d, length %d, pointer %p\n", level, option, length, (const void *)value);
    (void)code;
}

static void get_other(struct actor *actor, int slot)
{
    int level = other_level(actor), option = harmless(actor, level), room;
    int given = one_in(actor, 3) ? odd_length(actor, 4) : one_in(actor, 2) ? 4 : 256;
    uint8_t *value = one_in(actor, 6) ? place(actor, given, &room) : actor->buffer;
    socklen_t length = (socklen_t)given;
    void *length_at = one_in(actor, 20) ? bad_pointer(actor) : &length;

    note(actor, GET, slot, getsockopt(slots[slot].fd, level, option, value, length_at));
}

/* --- data --- */

/* Tags, each "<seed>:<slot>:<counter>\n", from the buffer's beginning. Their length. */
static int tags(struct actor *actor, int slot)
{
    const struct slot *it = known(actor, slot);
    unsigned count = one_in(actor, 8) ? 40 : 1 + below(actor, 4);
    int length = 0;

    for (; count > 0; count--) {
        unsigned tag = actor->tag++ % TAGS;

        if (!actor->racing)
            plain_tag[tag] = it != NULL && !it->touched;
        length += snprintf((char *)actor->buffer + length, 64, "%llu:%d:%u\n", (unsigned long long)actor->seed, slot, tag);
    }
    return length;
}

static void send_some(struct actor *actor, int slot)
{
    static const int flags[] = {0, 0, 0, 0, 0, 0, 0, MSG_MORE, MSG_EOR, MSG_DONTROUTE, MSG_OOB, MSG_FASTOPEN};
    struct slot *it = known(actor, slot);
    int fd = slots[slot].fd, flag = PICK(actor, flags);
    int length = tags(actor, slot);
    const void *from = one_in(actor, 20) ? bad_pointer(actor) : actor->buffer;
    union address addr;
    enum target target = one_in(actor, 3) ? TO_PLAIN : TO_TLS;
    uint16_t port = target == TO_PLAIN ? plain_port : tls_port;
    socklen_t addr_len = loopback(&addr, number_of(fd, SOL_SOCKET, SO_DOMAIN), port, true);
    bool fast = flag == MSG_FASTOPEN;

    /* No room to remember it. */
    if (it != NULL && it->sent_len + (size_t)length > STREAM)
        return;
    flag |= MSG_DONTWAIT | MSG_NOSIGNAL;
    ssize_t count = fast ? sendto(fd, from, (size_t)length, flag, &addr.any, addr_len) : send(fd, from, (size_t)length, flag);
    int code = note(actor, fast ? FASTOPEN : SEND, slot, count);
    if (it == NULL || !it->stream)
        return;
    if (fast && code == 0) {
        /* With a cookie it returns while it still connects. Where a connect was pending, that one has succeeded. */
        has_connected(actor, slot, it->pending ? 0 : EINPROGRESS, target, port);
    } else if (fast && (code == EFAULT || (code == EINPROGRESS && it->pending))) {
        /* Whether it has begun to connect is not known. */
        it->target = OTHER;
    } else if (fast && code != EPIPE && code != EAGAIN && code != EOPNOTSUPP) {
        has_connected(actor, slot, code, target, port);
    }
    if (code != 0 || count == 0)
        return;
    if (flag & MSG_OOB)
        it->holes = true;
    memcpy(it->sent + it->sent_len, actor->buffer, (size_t)count);
    it->sent_len += (size_t)count;
    if (!fast && must_not(it))
        wrong(actor, "TLS socket of slot %d sends to plain port %u", slot, it->port);
}

/* What an accepted TLS socket gets first must not be of a plain socket of ours. */
static void check_first(struct actor *actor, int slot, const uint8_t *from, size_t length)
{
    unsigned long long seed;
    int sender;
    unsigned tag;
    char text[64];

    snprintf(text, sizeof(text), "%.*s", (int)(length < sizeof(text) ? length : sizeof(text) - 1), (const char *)from);
    if (sscanf(text, "%llu:%d:%u\n", &seed, &sender, &tag) == 3 && strchr(text, '\n') != NULL && seed == actor->seed &&
        tag < TAGS && plain_tag[tag] == 1)
        wrong(actor, "accepted TLS socket of slot %d gets plaintext of slot %d", slot, sender);
}

static void check_back(struct actor *actor, struct slot *it, int slot, int flag, const uint8_t *from, size_t length)
{
    if (must_not(it))
        wrong(actor, "TLS socket of slot %d receives from plain port %u", slot, it->port);
    if (it->accepted_tls && it->back_len == 0 && (flag & MSG_TRUNC) == 0)
        check_first(actor, slot, from, length);
    if ((it->target == TO_TLS || it->target == TO_PLAIN) && !it->holes) {
        if (it->back_len + length > it->sent_len)
            wrong(actor, "slot %d gets %zu bytes back, and has sent %zu", slot, it->back_len + length, it->sent_len);
        else if ((flag & MSG_TRUNC) == 0 && memcmp(from, it->sent + it->back_len, length) != 0)
            wrong(actor, "slot %d gets back what it has not sent: %.*s", slot, (int)(length < 80 ? length : 80),
                  (const char *)from);
        seen(it->tls ? ECHO_TLS : ECHO_PLAIN, (unsigned)length);
    }
    if ((flag & MSG_PEEK) == 0)
        it->back_len += length;
}

static void receive_some(struct actor *actor, int slot)
{
    static const int flags[] = {0, 0, 0, 0, 0, 0, 0, 0, MSG_PEEK, MSG_PEEK, MSG_TRUNC, MSG_WAITALL, MSG_OOB, MSG_ERRQUEUE};
    struct slot *it = known(actor, slot);
    int flag = PICK(actor, flags);
    size_t room = one_in(actor, 3) ? 1 + below(actor, 16) : 4096;
    struct pollfd ready = {.fd = slots[slot].fd, .events = POLLIN};

    if (one_in(actor, 2))
        poll(&ready, 1, (int)below(actor, 10));
    bool lost = one_in(actor, 20);
    ssize_t count = recv(slots[slot].fd, lost ? bad_pointer(actor) : actor->buffer, room, flag | MSG_DONTWAIT);
    int code = note(actor, RECV, slot, count);
    if (it == NULL || !it->stream || code != 0 || count == 0 || flag == MSG_ERRQUEUE)
        return;
    if (flag == MSG_OOB)
        it->holes = true;
    else
        check_back(actor, it, slot, flag | (lost ? MSG_TRUNC : 0), actor->buffer, (size_t)count);
}

static void shut(struct actor *actor, int slot)
{
    struct slot *it = known(actor, slot);
    int code = note(actor, SHUTDOWN, slot, shutdown(slots[slot].fd, (int)below(actor, 4)));

    if (it != NULL && code == 0)
        it->listening = false;
}

static void poll_it(struct actor *actor, int slot)
{
    struct pollfd ready = {.fd = slots[slot].fd, .events = POLLIN | POLLOUT | POLLPRI | POLLRDHUP};

    note(actor, POLL, slot, poll(&ready, 1, (int)below(actor, 5)));
}

static void names(struct actor *actor, int slot)
{
    static const int lengths[] = {128, 128, 28, 16, 0, 1, 2, 15, 17, LONGEST, -1, INT_MIN};
    struct slot *it = known(actor, slot);
    int given = PICK(actor, lengths), room;
    int behind = given > 0 ? given : 0;
    bool peer = !one_in(actor, 3);
    union address addr;

    memset(actor->buffer, 0x5a, (size_t)behind + CANARY);
    uint8_t *at = one_in(actor, 4) ? place(actor, given, &room) : actor->buffer;
    socklen_t length = (socklen_t)given;
    void *length_at = one_in(actor, 20) ? bad_pointer(actor) : &length;
    int fd = slots[slot].fd;
    int result = peer ? getpeername(fd, (void *)at, length_at) : getsockname(fd, (void *)at, length_at);
    int code = note(actor, peer ? GETPEERNAME : GETSOCKNAME, slot, result);

    if (at == actor->buffer && !intact(at + behind, CANARY, 0x5a))
        wrong(actor, "get%sname writes behind %d bytes", peer ? "peer" : "sock", given);
    if (it == NULL || !it->stream || !peer || code != 0)
        return;
    if (must_not(it))
        wrong(actor, "TLS socket of slot %d has plain port %u as its peer", slot, it->port);
    if (it->target != NOWHERE && it->target != OTHER && at == actor->buffer && given >= 28 && length_at == &length) {
        memcpy(&addr, at, sizeof(addr.v6));
        if (port_of(&addr) != it->port)
            wrong(actor, "getpeername of slot %d shows port %u instead of %u", slot, port_of(&addr), it->port);
    }
}

/* --- the same socket twice --- */

/* `fd` is another file descriptor of the socket in `slot`. */
static void share(struct actor *actor, int slot, int into, int fd)
{
    put(actor, into, fd);
    if (!actor->racing && slot != into)
        slots[slot].shared = slots[into].shared = true;
}

static void dup_it(struct actor *actor, int slot)
{
    int into = any_slot(actor), fd = slot == into ? -1 : fcntl(slots[slot].fd, F_DUPFD_CLOEXEC, 3);

    if (slot != into && note(actor, DUP, slot, fd) == 0)
        share(actor, slot, into, fd);
}

/* Sends the file descriptor to itself, which most often takes the place of the old one. */
static void pass_it(struct actor *actor, int slot)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {.room = {0}};
    char byte = 0;
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = sizeof(control.room)};
    struct cmsghdr *part = CMSG_FIRSTHDR(&message);
    int pair[2], fd = slots[slot].fd, into = one_in(actor, 3) ? any_slot(actor) : slot;

    if (fd < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) != 0)
        return;
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(part), &fd, sizeof(fd));
    int code = note(actor, PASS, slot, sendmsg(pair[0], &message, MSG_DONTWAIT | MSG_NOSIGNAL));
    int got = -1;
    if (code == 0 && recvmsg(pair[1], &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) == 1 &&
        (part = CMSG_FIRSTHDR(&message)) != NULL && part->cmsg_type == SCM_RIGHTS)
        memcpy(&got, CMSG_DATA(part), sizeof(got));
    close(pair[0]);
    close(pair[1]);
    if (got < 0)
        return;
    if (into != slot) {
        share(actor, slot, into, got);
        return;
    }
    /* What is known of the socket stays true. */
    int old = atomic_exchange(&slots[slot].fd, got);
    if (old >= 0)
        note(actor, CLOSE, slot, close(old));
}

/* --- whole clients and servers: single calls would seldom come to a connection --- */

static void client(struct actor *actor)
{
    int slot = any_slot(actor), other = any_slot(actor);
    int type = SOCK_STREAM | (one_in(actor, 3) ? SOCK_NONBLOCK : 0);
    bool plain = one_in(actor, 4);

    if (create(actor, slot, one_in(actor, 4) ? AF_INET6 : AF_INET, type, !plain && one_in(actor, 3) ? LEVEL : 0) < 0)
        return;
    if (plain && one_in(actor, 6))
        set_tls_to(actor, slot, 85, bad_pointer(actor), 16);
    if (!plain && one_in(actor, 5) && other != slot) {
        uint64_t id = 0;
        socklen_t length = sizeof(id);

        getsockopt(slots[other].fd, LEVEL, 107, &id, &length);
        set_tls_to(actor, slot, 107, &id, sizeof(id));
    } else if (!plain) {
        set_tls_to(actor, slot, 87, files[0], (int)strlen(files[0]) + 1);
    }
    if (!plain && !one_in(actor, 10))
        set_tls_to(actor, slot, 85, host, (int)strlen(host) + 1);
    if (!plain && one_in(actor, 4))
        set_well(actor, slot, tls_option(actor));
    if (one_in(actor, 4))
        set_other(actor, slot);
    unsigned choice = below(actor, 8);
    connect_to(actor, slot, choice < 4 ? plain && choice > 0 ? THE_PLAIN_SERVER : THE_TLS_SERVER
                                       : choice == 4 ? THE_PLAIN_SERVER : A_LISTENER);
    send_some(actor, slot);
}

static void server(struct actor *actor)
{
    int slot = any_slot(actor);
    int type = SOCK_STREAM | (one_in(actor, 3) ? SOCK_NONBLOCK : 0);
    bool plain = one_in(actor, 3);

    if (create(actor, slot, one_in(actor, 6) ? AF_INET6 : AF_INET, type, !plain && one_in(actor, 3) ? LEVEL : 0) < 0)
        return;
    if (!plain) {
        set_tls_to(actor, slot, 88, files[1], (int)strlen(files[1]) + 1);
        set_tls_to(actor, slot, 89, files[2], (int)strlen(files[2]) + 1);
    }
    if (!plain && one_in(actor, 4))
        set_well(actor, slot, tls_option(actor));
    if (!one_in(actor, 6))
        bind_any(actor, slot);
    listen_on(actor, slot);
    if (!one_in(actor, 3))
        client(actor);
    if (!one_in(actor, 3))
        accept_of(actor, slot);
}

/* --- children and threads --- */

static unsigned some_slots(struct actor *actor)
{
    unsigned mask = (unsigned)next(&actor->random) & ALL & actor->mask;

    return mask != 0 ? mask : 1;
}

static void share_all(unsigned mask)
{
    for (int slot = 0; slot < SLOTS; slot++)
        if ((mask >> slot & 1) != 0 && slots[slot].fd >= 0)
            slots[slot].shared = true;
}

static void pause_us(unsigned microseconds)
{
    struct timespec wait = {.tv_nsec = (long)microseconds * 1000};

    nanosleep(&wait, NULL);
}

_Noreturn static void be_child(const struct actor *parent, uint64_t seed, unsigned mask, unsigned count)
{
    struct actor self = *parent;

    self.seed = self.random = seed;
    self.mask = mask;
    self.leaf = true;
    self.steps = 0;
    for (int slot = 0; slot < SLOTS; slot++) {
        if ((mask >> slot & 1) == 0 && slots[slot].fd >= 0) {
            close(slots[slot].fd);
            slots[slot].fd = -1;
        }
    }
    for (unsigned number = 0; number < count && !tally->wrong; number++)
        step(&self, number);
    _exit(0);
}

/* A child with some of the slots makes steps, while the parent makes a few on all of them. */
static void child(struct actor *actor)
{
    uint64_t seed = mix(next(&actor->random));
    unsigned mask = some_slots(actor), count = 1 + below(actor, 12), own = below(actor, 5);
    bool kill_it = one_in(actor, 2);
    unsigned delay_us = below(actor, 6000);
    int status;

    fflush(stdout);
    share_all(mask);
    pid_t pid = fork();
    if (pid < 0)
        return;
    if (pid == 0)
        be_child(actor, seed, mask, count);
    seen(CHILDREN, 1);
    actor->leaf = true;
    for (unsigned number = 0; number < own; number++)
        step(actor, number);
    actor->leaf = false;
    if (kill_it) {
        pause_us(delay_us);
        kill(pid, SIGKILL);
        seen(KILLED, 1);
    }
    /* Each of its steps is bounded. */
    for (unsigned waits = 0; waitpid(pid, &status, WNOHANG) == 0; waits++) {
        pause_us(1000);
        if (waits == 60000) {
            wrong(actor, "child %d hangs", (int)pid);
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
            return;
        }
    }
    if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL)
        wrong(actor, "child ended with signal %d", WTERMSIG(status));
}

static void *be_thread(void *argument)
{
    struct actor *self = argument;
    unsigned count = 5 + below(self, 25);

    for (unsigned number = 0; number < count && !tally->wrong; number++)
        step(self, number);
    return NULL;
}

/* Threads on the same slots. Main only waits for them: what they do with file descriptors that were closed under them must
 * not reach one of its own. */
static void threads(struct actor *actor)
{
    static struct actor selves[THREADS];
    pthread_t handles[THREADS];
    unsigned count = 2 + below(actor, THREADS - 1), mask = some_slots(actor), started = 0;

    /* Also those that are empty: they will not be afterwards. */
    for (int slot = 0; slot < SLOTS; slot++)
        if ((mask >> slot & 1) != 0)
            slots[slot].shared = true;
    for (unsigned index = 0; index < count; index++) {
        struct actor *self = &selves[index];
        uint8_t *buffer = self->buffer, *edge = self->edge;

        *self = *actor;
        self->seed = self->random = mix(next(&actor->random));
        self->mask = mask;
        self->racing = self->leaf = true;
        self->steps = 0;
        self->buffer = buffer;
        self->edge = edge;
        if (buffer == NULL) {
            self->buffer = malloc(LONGEST + CANARY + PAGE);
            self->edge = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (self->buffer == NULL || self->edge == MAP_FAILED)
                abort();
            self->edge += PAGE;
            mprotect(self->edge, PAGE, PROT_NONE);
        }
        if (pthread_create(&handles[started], NULL, be_thread, self) != 0)
            break;
        started++;
    }
    for (unsigned index = 0; index < started; index++)
        pthread_join(handles[index], NULL);
    seen(THREADED, started);
}

/* --- sockets that have nothing to do with TLS --- */

static int exchange(int fd, const union address *addr, socklen_t length)
{
    char out[1024], in[1024];
    size_t got = 0;

    memset(out, 'c', sizeof(out));
    if (connect(fd, &addr->any, length) != 0 || send(fd, out, sizeof(out), MSG_NOSIGNAL) != sizeof(out))
        return -1;
    while (got < sizeof(in)) {
        ssize_t count = recv(fd, in + got, sizeof(in) - got, 0);

        if (count <= 0) {
            errno = count == 0 ? ECONNABORTED : errno;
            return -1;
        }
        got += (size_t)count;
    }
    errno = EBADMSG;
    return memcmp(in, out, sizeof(in)) == 0 ? 0 : -1;
}

static void control(struct actor *actor)
{
    struct timeval limit = {.tv_sec = 10};
    union address addr;
    socklen_t length = loopback(&addr, AF_INET, plain_port, false);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    char byte = 'u';

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    if (exchange(fd, &addr, length) != 0)
        wrong(actor, "plain TCP socket gets %s", errno_name(errno));
    close(fd);
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    loopback(&addr, AF_INET, 0, false);
    if (bind(fd, &addr.any, length) != 0 || getsockname(fd, &addr.any, &length) != 0 ||
        sendto(fd, &byte, 1, 0, &addr.any, length) != 1 || recv(fd, &byte, 1, 0) != 1)
        wrong(actor, "UDP socket gets %s", errno_name(errno));
    close(fd);
    seen(CONTROLS, 1);
}

/* --- steps --- */

enum kind { A_SOCKET, A_BIND, A_LISTEN, A_CONNECT, AN_ACCEPT, A_SET_TLS, A_GET_TLS, A_SET, A_GET, A_SEND, A_RECV, A_SHUTDOWN,
            A_POLL, NAMES, A_DUP, A_PASS, A_CLOSE, A_CLIENT, A_SERVER, A_CHILD, SOME_THREADS, KINDS };
static const unsigned weights[KINDS] = {8, 4, 5, 14, 8, 20, 20, 8, 6, 16, 18, 3, 4, 6, 2, 3, 5, 12, 5, 1, 1};

static enum kind any_kind(struct actor *actor)
{
    unsigned all = 0, kind = 0;

    for (unsigned index = 0; index < KINDS; index++)
        all += weights[index];
    for (unsigned drawn = below(actor, all); drawn >= weights[kind]; kind++)
        drawn -= weights[kind];
    return (enum kind)kind;
}

static void make(struct actor *actor, enum kind kind, int slot)
{
    switch (kind) {
    case A_SOCKET: any_socket(actor); break;
    case A_BIND: bind_any(actor, slot); break;
    case A_LISTEN: listen_on(actor, slot); break;
    case A_CONNECT: connect_any(actor, slot); break;
    case AN_ACCEPT: accept_any(actor); break;
    case A_SET_TLS: set_tls(actor, slot, tls_option(actor)); break;
    case A_GET_TLS: get_tls(actor, slot, tls_option(actor)); break;
    case A_SET: set_other(actor, slot); break;
    case A_GET: get_other(actor, slot); break;
    case A_SEND: send_some(actor, slot); break;
    case A_RECV: receive_some(actor, slot); break;
    case A_SHUTDOWN: shut(actor, slot); break;
    case A_POLL: poll_it(actor, slot); break;
    case NAMES: names(actor, slot); break;
    case A_DUP: dup_it(actor, slot); break;
    case A_PASS: pass_it(actor, slot); break;
    case A_CLOSE: put(actor, slot, -1); break;
    case A_CLIENT: client(actor); break;
    case A_SERVER: server(actor); break;
    case A_CHILD: child(actor); break;
    case SOME_THREADS: threads(actor); break;
    case KINDS: break;
    }
}

/* The random numbers of a step depend on the seed and the step's number, not on what other steps drew. */
static void step(struct actor *actor, unsigned number)
{
    uint64_t outer = actor->random;

    actor->steps++;
    actor->random = mix(actor->seed + mix(actor->steps) + number);
    enum kind kind = any_kind(actor);
    int slot = open_slot(actor);
    if (!actor->leaf || (kind != A_CHILD && kind != SOME_THREADS))
        make(actor, kind, slot);
    actor->random = outer;
}

static void on_alarm(int number)
{
    (void)number;
}

static void *pages(size_t length, int protection)
{
    void *at = mmap(NULL, length, protection, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (at == MAP_FAILED) {
        perror("mmap");
        exit(2);
    }
    return at;
}

static void read_pem(int index)
{
    FILE *file = fopen(files[index], "r");
    size_t length = file != NULL ? fread(pem[index], 1, PAGE - 1, file) : 0;

    pem[index][length] = 0;
    if (file != NULL)
        fclose(file);
}

static void summary(const struct actor *actor)
{
    printf("{\"seed\": %llu, \"steps\": %u, \"calls\": {", (unsigned long long)actor->seed, actor->steps);
    for (int call = 0; call < CALLS; call++) {
        const char *between = "";

        printf("%s\"%s\": {", call > 0 ? ", " : "", call_names[call]);
        for (int code = 0; code < ERRNOS; code++) {
            if (tally->calls[call][code] != 0) {
                printf("%s\"%s\": %u", between, errno_name(code), tally->calls[call][code]);
                between = ", ";
            }
        }
        printf("}");
    }
    printf("}, \"checks\": {");
    for (int check = 0; check < CHECKS; check++)
        printf("%s\"%s\": %u", check > 0 ? ", " : "", check_names[check], tally->checks[check]);
    printf("}}\n");
}

int main(int argc, char **argv)
{
    struct sigaction alarmed = {.sa_handler = on_alarm};
    struct actor self = {.mask = ALL};

    if (argc < 9) {
        fprintf(stderr, "usage: calls SEED COUNT TLS-PORT PLAIN-PORT HOST CA CHAIN KEY [trace]\n");
        return 2;
    }
    self.seed = strtoull(argv[1], NULL, 10);
    unsigned count = (unsigned)strtoul(argv[2], NULL, 10);
    tls_port = (uint16_t)atoi(argv[3]);
    plain_port = (uint16_t)atoi(argv[4]);
    host = argv[5];
    tracing = argc > 9;
    printf("seed %llu\n", (unsigned long long)self.seed);
    fflush(stdout);
    for (int index = 0; index < 3; index++) {
        files[index] = argv[6 + index];
        read_pem(index);
    }
    /* No SA_RESTART: connect has to come back. */
    sigaction(SIGALRM, &alarmed, NULL);
    signal(SIGPIPE, SIG_IGN);
    tally = pages(sizeof(*tally), PROT_READ | PROT_WRITE);
    self.buffer = malloc(LONGEST + CANARY + PAGE);
    self.fixed = pages(LONGEST + PAGE, PROT_READ);
    self.edge = (uint8_t *)pages(2 * PAGE, PROT_READ | PROT_WRITE) + PAGE;
    mprotect(self.edge, PAGE, PROT_NONE);
    if (self.buffer == NULL)
        return 2;
    self.random = mix(self.seed);
    for (int slot = 0; slot < SLOTS; slot++)
        slots[slot].fd = -1;
    control(&self);
    for (unsigned number = 0; number < count && !tally->wrong; number++) {
        step(&self, number);
        if (number % CONTROL_EVERY == CONTROL_EVERY - 1)
            control(&self);
    }
    if (tally->wrong) {
        printf("wrong: %s\n", tally->message);
        return 1;
    }
    summary(&self);
    return 0;
}
