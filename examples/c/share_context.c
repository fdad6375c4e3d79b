/* Let one socket adopt another's context, so that its handshake is a resumed one:
 * share_context HOST [PORT] [CA-FILE] [ADDRESS]
 *
 * A context is the settings of a socket (host name, CAs) and the sessions that its connections have left. */
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include "common.h"
#include "in_tls.h"

/* From here on the settings of `from` are frozen. `to` needs no others. */
static int adopt_context(int to, int from)
{
    uint64_t context;
    socklen_t size = sizeof context;
    if (getsockopt(from, IPPROTO_TLS, TLS_CONTEXT, &context, &size) != 0)
        return -1;
    return setsockopt(to, IPPROTO_TLS, TLS_CONTEXT, &context, size);
}

/* Connects, tells whether the session was resumed, and reads the answer to the end. */
static int use(int fd, const struct addrinfo *place, const char *host, const char *name)
{
    int resumed;
    socklen_t size = sizeof resumed;
    if (connect(fd, place->ai_addr, place->ai_addrlen) != 0
        || getsockopt(fd, IPPROTO_TLS, TLS_RESUMED_SESSION, &resumed, &size) != 0)
        return -1;
    printf("%s: %s\n", name, resumed ? "resumed" : "full handshake");

    /* A TLS 1.3 server sends its tickets after the handshake: read before the next socket connects. */
    char buffer[4096];
    ssize_t count = request_page(fd, host);
    while (count >= 0 && (count = read(fd, buffer, sizeof buffer)) > 0)
        ;
    return (int)count;
}

int main(int argc, char **argv)
{
    struct arguments args = read_arguments(argc, argv);
    for (struct addrinfo *place = args.places; place; place = place->ai_next) {
        int first = socket(place->ai_family, place->ai_socktype, place->ai_protocol);
        int second = socket(place->ai_family, place->ai_socktype, place->ai_protocol);
        int failed = first;
        if (first >= 0 && second >= 0 && set_tls(first, args.host, args.ca_file) == 0
            && adopt_context(second, first) == 0 && use(first, place, args.host, "first") == 0) {
            if (use(second, place, args.host, "second") == 0)
                return 0;
            failed = second;
        }
        complain(failed);
        close(first);
        close(second);
    }
    return 1;
}
