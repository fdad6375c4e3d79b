/* An echo server with epoll, over TLS by two setsockopt calls.
 *
 * usage: serve PORT CHAIN-FILE KEY-FILE
 */
#define _GNU_SOURCE /* accept4 */

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "in_tls.h"

static int set_text(int sock, int option, const char *text)
{
    return setsockopt(sock, IPPROTO_TLS, option, text, (socklen_t)strlen(text) + 1);
}

int main(int argc, char **argv)
{
    struct sockaddr_in6 addr = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT};
    struct epoll_event event = {.events = EPOLLIN}, ready[64];
    int on = 1, sock = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0), epoll = epoll_create1(0);

    if (argc != 4)
        return 2;
    addr.sin6_port = htons((unsigned short)atoi(argv[1]));
    setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (set_text(sock, TLS_CERTIFICATE_CHAIN, argv[2]) || set_text(sock, TLS_PRIVATE_KEY, argv[3]) ||
        bind(sock, (struct sockaddr *)&addr, sizeof(addr)) || listen(sock, SOMAXCONN)) {
        perror("serve");
        return 1;
    }
    event.data.fd = sock;
    epoll_ctl(epoll, EPOLL_CTL_ADD, sock, &event);
    for (;;) {
        int count = epoll_wait(epoll, ready, 64, -1);

        for (int index = 0; index < count; index++) {
            int fd = ready[index].data.fd;
            char buffer[4096];

            if (fd == sock) {
                event.data.fd = accept4(sock, NULL, NULL, SOCK_NONBLOCK);
                if (event.data.fd >= 0)
                    epoll_ctl(epoll, EPOLL_CTL_ADD, event.data.fd, &event);
                else
                    perror("accept");
                continue;
            }
            ssize_t length = read(fd, buffer, sizeof(buffer));
            if (length <= 0 || write(fd, buffer, (size_t)length) != length)
                close(fd);
        }
    }
}
