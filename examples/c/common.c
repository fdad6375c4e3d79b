#include "common.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "in_tls.h"

struct arguments read_arguments(int argc, char **argv)
{
    if (argc < 2 || argc > 5) {
        fprintf(stderr, "usage: %s HOST [PORT] [CA-FILE] [ADDRESS]\n", argv[0]);
        exit(2);
    }
    struct arguments args = {.host = argv[1], .ca_file = argc > 3 && *argv[3] ? argv[3] : NULL};
    const char *port = argc > 2 ? argv[2] : "443", *address = argc > 4 ? argv[4] : args.host;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    int failure = getaddrinfo(address, port, &hints, &args.places);
    if (failure) {
        fprintf(stderr, "%s: %s\n", address, gai_strerror(failure));
        exit(1);
    }
    return args;
}

int set_tls(int fd, const char *host, const char *ca_file)
{
    /* The length of a string counts its NUL. */
    if (setsockopt(fd, IPPROTO_TLS, TLS_HOSTNAME, host, strlen(host) + 1) != 0)
        return -1;
    if (ca_file && setsockopt(fd, IPPROTO_TLS, TLS_TRUSTED_PEER_CERTIFICATES, ca_file, strlen(ca_file) + 1) != 0)
        return -1;
    return 0;
}

int request_page(int fd, const char *host)
{
    char request[512];
    int length = snprintf(request, sizeof request, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", host);
    return send(fd, request, length, MSG_NOSIGNAL) == length ? 0 : -1;
}

void complain(int fd)
{
    int error = errno;
    char reason[256] = "";
    socklen_t length = sizeof reason;
    if (error == ENOPROTOOPT)
        strcpy(reason, "run this application in a cgroup that ssa-agent serves");
    else
        getsockopt(fd, IPPROTO_TLS, TLS_ERROR, reason, &length);
    fprintf(stderr, "[Errno %d] %s%s%s\n", error, strerror(error), *reason ? ": " : "", reason);
}
