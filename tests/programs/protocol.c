/*
 * The calling sequence of the Secure Socket API: socket(..., IPPROTO_TLS).
 *
 * protocol client 0|1 PORT NAME CA       says hello, and what came back
 * protocol server 0|1 PORT CHAIN KEY     says its port, echoes once
 *
 * The second word is 1 for a socket that does not block.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "in_tls.h"

static void must(int good, const char *what)
{
	if (!good) {
		perror(what);
		exit(1);
	}
}

static void ready(int fd, short events)
{
	struct pollfd wanted = { .fd = fd, .events = events };

	must(poll(&wanted, 1, 20000) == 1, "poll");
}

static void set(int fd, int option, const char *value)
{
	must(setsockopt(fd, IPPROTO_TLS, option, value, strlen(value) + 1) == 0, "setsockopt");
}

static ssize_t receive(int fd, char *buffer, size_t size)
{
	ready(fd, POLLIN);
	return recv(fd, buffer, size, 0);
}

static void client(int fd, struct sockaddr_in *addr)
{
	int code = 0;
	socklen_t len = sizeof(code);
	char buffer[16] = "";

	if (connect(fd, (struct sockaddr *)addr, sizeof(*addr)) != 0) {
		must(errno == EINPROGRESS, "connect");
		ready(fd, POLLOUT);
		must(getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &len) == 0, "SO_ERROR");
		errno = code;
		must(code == 0, "connect");
	}
	must(send(fd, "hello", 5, 0) == 5, "send");
	must(receive(fd, buffer, 5) == 5, "recv");
	printf("%s\n", buffer);
}

static void server(int fd, struct sockaddr_in *addr)
{
	socklen_t len = sizeof(*addr);
	char buffer[16];
	ssize_t count;
	int conn;

	must(bind(fd, (struct sockaddr *)addr, len) == 0, "bind");
	must(listen(fd, 16) == 0, "listen");
	must(getsockname(fd, (struct sockaddr *)addr, &len) == 0, "getsockname");
	printf("%d\n", ntohs(addr->sin_port));
	fflush(stdout);
	ready(fd, POLLIN);
	conn = accept(fd, NULL, NULL);
	must(conn >= 0, "accept");
	while ((count = receive(conn, buffer, sizeof(buffer))) > 0)
		must(send(conn, buffer, count, 0) == count, "send");
	must(count == 0, "recv");
}

int main(int argc, char **argv)
{
	struct sockaddr_in addr = { .sin_family = AF_INET };
	int fd, protocol = 0, type = SOCK_STREAM;
	socklen_t len = sizeof(protocol);

	must(argc == 6, "six words");
	if (atoi(argv[2]))
		type |= SOCK_NONBLOCK | SOCK_CLOEXEC;
	addr.sin_port = htons(atoi(argv[3]));
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	fd = socket(AF_INET, type, IPPROTO_TLS);
	must(fd >= 0, "socket");
	must(getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &len) == 0, "SO_PROTOCOL");
	errno = EPROTO;
	must(protocol == IPPROTO_TLS && len == sizeof(protocol), "SO_PROTOCOL");
	if (strcmp(argv[1], "client") == 0) {
		set(fd, TLS_HOSTNAME, argv[4]);
		set(fd, TLS_TRUSTED_PEER_CERTIFICATES, argv[5]);
		client(fd, &addr);
	} else {
		set(fd, TLS_CERTIFICATE_CHAIN, argv[4]);
		set(fd, TLS_PRIVATE_KEY, argv[5]);
		server(fd, &addr);
	}
	return 0;
}
