/* Fetch a page over TLS through a plain socket: fetch HOST [PORT] [CA-FILE] [ADDRESS]
 *
 * Two socket options before connect() (in set_tls) are all the TLS there is in this application. When connect() returns,
 * the server has proved to be HOST, and from then on the socket is read and written like any other. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common.h"

/* Prints the status and the body (one in chunks as it comes). Gives 0, or -1 and errno. */
static int print_page(int fd)
{
    char buffer[4096];
    size_t count;
    FILE *answer = fdopen(dup(fd), "r");
    if (!answer)
        return -1;

    if (fgets(buffer, sizeof buffer, answer))
        fputs(buffer, stdout);
    while (fgets(buffer, sizeof buffer, answer) && strcmp(buffer, "\r\n") != 0)
        ; /* skip the headers */
    while ((count = fread(buffer, 1, sizeof buffer, answer)) > 0)
        fwrite(buffer, 1, count, stdout);

    int result = ferror(answer) ? -1 : 0;
    fclose(answer);
    return result;
}

int main(int argc, char **argv)
{
    struct arguments args = read_arguments(argc, argv);
    /* Try every address of the server, each with a socket of its own. */
    for (struct addrinfo *place = args.places; place; place = place->ai_next) {
        int fd = socket(place->ai_family, place->ai_socktype, place->ai_protocol);
        if (fd >= 0 && set_tls(fd, args.host, args.ca_file) == 0
            && connect(fd, place->ai_addr, place->ai_addrlen) == 0) {
            if (request_page(fd, args.host) == 0 && print_page(fd) == 0)
                return 0;
            complain(fd);
            return 1; /* rather than print half a page twice */
        }
        complain(fd);
        close(fd);
    }
    return 1;
}
