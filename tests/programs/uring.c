/*
 * uring PROTOCOL: makes a stream socket through io_uring (IORING_OP_SOCKET, Linux 5.19), and says what SO_PROTOCOL is,
 * or the errno. By system calls alone, so that no library is needed.
 */
#include <errno.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static int made(int ring, struct io_uring_params *params, int protocol)
{
	size_t sq_size = params->sq_off.array + params->sq_entries * sizeof(unsigned);
	size_t cq_size = params->cq_off.cqes + params->cq_entries * sizeof(struct io_uring_cqe);
	char *sq = mmap(0, sq_size, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
	char *cq = mmap(0, cq_size, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_CQ_RING);
	struct io_uring_sqe *sqe = mmap(0, params->sq_entries * sizeof(*sqe), PROT_READ | PROT_WRITE, MAP_SHARED, ring,
					IORING_OFF_SQES);
	struct io_uring_cqe *cqe = (struct io_uring_cqe *)(cq + params->cq_off.cqes);

	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_SOCKET;
	sqe->fd = AF_INET;
	sqe->off = SOCK_STREAM;
	sqe->len = protocol;
	*(unsigned *)(sq + params->sq_off.array) = 0;
	__atomic_store_n((unsigned *)(sq + params->sq_off.tail), 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
		return -errno;
	return cqe->res;
}

int main(int argc, char **argv)
{
	struct io_uring_params params = { 0 };
	int ring = syscall(SYS_io_uring_setup, 4, &params);
	int fd, protocol = 0;
	socklen_t len = sizeof(protocol);

	if (argc != 2 || ring < 0) {
		perror("io_uring_setup");
		return 1;
	}
	fd = made(ring, &params, atoi(argv[1]));
	if (fd >= 0 && getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &len) != 0)
		return 1;
	printf("%d\n", fd < 0 ? fd : protocol);
	return 0;
}
