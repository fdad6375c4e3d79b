/* Show what a connected socket tells about its TLS: peer HOST [PORT] [CA-FILE] [ADDRESS] */
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "common.h"
#include "in_tls.h"

/* Gives 0, or -1 and errno. */
static int show(int fd)
{
    static const char *const states[] = {
        [TLS_STATE_FRESH] = "fresh", [TLS_STATE_CONNECTING] = "connecting", [TLS_STATE_CONNECTED] = "connected",
        [TLS_STATE_LISTENING] = "listening", [TLS_STATE_FAILED] = "failed",
        [TLS_STATE_PEER_CLOSED] = "closed by the peer",
    };
    struct sockaddr_storage peer;
    char address[64] = "", port[8] = "", cipher[256];
    int version, resumed, state;
    uint64_t id;
    socklen_t peer_size = sizeof peer, cipher_size = sizeof cipher, int_size = sizeof(int), id_size = sizeof id;

    /* Numbers want a buffer of exactly their size; a string comes with its NUL. */
    if (getpeername(fd, (struct sockaddr *)&peer, &peer_size) != 0
        || getsockopt(fd, IPPROTO_TLS, TLS_VERSION_CONN, &version, &int_size) != 0
        || getsockopt(fd, IPPROTO_TLS, TLS_CHOSEN_CIPHER, cipher, &cipher_size) != 0
        || getsockopt(fd, IPPROTO_TLS, TLS_RESUMED_SESSION, &resumed, &int_size) != 0
        || getsockopt(fd, IPPROTO_TLS, TLS_ID, &id, &id_size) != 0
        || getsockopt(fd, IPPROTO_TLS, TLS_STATE, &state, &int_size) != 0)
        return -1;

    getnameinfo((struct sockaddr *)&peer, peer_size, address, sizeof address, port, sizeof port,
                NI_NUMERICHOST | NI_NUMERICSERV);
    printf("address: %s %s\n", address, port);
    printf("version: %s\n", version == 0x0304 ? "TLS 1.3" : "TLS 1.2");
    printf("cipher:  %s\n", cipher);
    printf("resumed: %s\n", resumed ? "yes" : "no");
    printf("id:      %" PRIu64 "\n", id);
    printf("state:   %s\n", states[state]);
    return 0;
}

int main(int argc, char **argv)
{
    struct arguments args = read_arguments(argc, argv);
    /* Try every address of the server, each with a socket of its own. */
    for (struct addrinfo *place = args.places; place; place = place->ai_next) {
        int fd = socket(place->ai_family, place->ai_socktype, place->ai_protocol);
        if (fd >= 0 && set_tls(fd, args.host, args.ca_file) == 0
            && connect(fd, place->ai_addr, place->ai_addrlen) == 0 && show(fd) == 0)
            return 0;
        complain(fd);
        close(fd);
    }
    return 1;
}
