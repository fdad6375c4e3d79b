/* What the examples have in common: their arguments, the two options of a TLS client, and its errors. */
#ifndef COMMON_H
#define COMMON_H

#include <netdb.h>
#include <sys/socket.h>

struct arguments {
    const char *host;         /* who the server must prove to be */
    const char *ca_file;      /* CAs to trust instead of the system's, or NULL */
    struct addrinfo *places;  /* where to connect to */
};

/* HOST [PORT] [CA-FILE] [ADDRESS]. Ends the process if there are others, or if the host is not found. */
struct arguments read_arguments(int argc, char **argv);

/* Makes connect() on this socket do TLS. Gives 0, or -1 and errno. */
int set_tls(int fd, const char *host, const char *ca_file);

/* Sends a request for the page "/". Gives 0, or -1 and errno. */
int request_page(int fd, const char *host);

/* Tells what failed (errno), and in words why, if TLS did. */
void complain(int fd);

#endif
