/* Gets every option that a client can get, over a connection, with the header's names and C's own
 * types: what a program written for the Secure Socket API does.
 *
 * usage: options ADDRESS PORT NAME CA-FILE CHAIN-FILE KEY-FILE
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "in_tls.h"

static int sock;

static void fail(const char *what)
{
    char why[256] = "";
    socklen_t length = sizeof(why);
    int code = errno;

    getsockopt(sock, IPPROTO_TLS, TLS_ERROR, why, &length);
    fprintf(stderr, "%s: %s: %s\n", what, strerror(code), why);
    exit(1);
}

static void set_text(const char *name, int option, const char *text)
{
    if (setsockopt(sock, IPPROTO_TLS, option, text, (socklen_t)strlen(text) + 1) != 0)
        fail(name);
}

static void set_int(const char *name, int option, int value)
{
    if (setsockopt(sock, IPPROTO_TLS, option, &value, sizeof(value)) != 0)
        fail(name);
}

static void get_text(const char *name, int option)
{
    char text[4096];
    socklen_t length = sizeof(text);

    if (getsockopt(sock, IPPROTO_TLS, option, text, &length) != 0)
        fail(name);
    if (length == 0 || strlen(text) + 1 != length)
        fail("no NUL at the end");
    for (char *line = text; (line = strchr(line, '\n')) != NULL; line++)
        *line = '|';
    printf("%s %s\n", name, text);
}

static void get_int(const char *name, int option)
{
    int value = -1;
    socklen_t length = sizeof(value);

    if (getsockopt(sock, IPPROTO_TLS, option, &value, &length) != 0 || length != sizeof(value))
        fail(name);
    printf("%s %d\n", name, value);
}

static void get_long(const char *name, int option)
{
    long value = -1;
    socklen_t length = sizeof(value);

    if (getsockopt(sock, IPPROTO_TLS, option, &value, &length) != 0 || length != sizeof(value))
        fail(name);
    printf("%s %ld\n", name, value);
}

static void get_id(const char *name, int option)
{
    unsigned long value = 0;
    socklen_t length = sizeof(value);

    if (getsockopt(sock, IPPROTO_TLS, option, &value, &length) != 0 || length != sizeof(value))
        fail(name);
    printf("%s %s\n", name, value != 0 ? "set" : "zero");
}

static void get_bytes(const char *name, int option, socklen_t room)
{
    unsigned char value[4096];
    socklen_t length = room;

    if (getsockopt(sock, IPPROTO_TLS, option, value, &length) != 0)
        fail(name);
    printf("%s ", name);
    for (socklen_t index = 0; index < length; index++)
        printf("%02x", value[index]);
    printf("\n");
}

#define TEXT(name) get_text(#name, name)
#define INT(name) get_int(#name, name)
#define LONG(name) get_long(#name, name)
#define ID(name) get_id(#name, name)

int main(int argc, char **argv)
{
    struct sockaddr_in addr = {.sin_family = AF_INET};
    long ttl = 600;

    if (argc != 7 || inet_pton(AF_INET, argv[1], &addr.sin_addr) != 1)
        return 2;
    addr.sin_port = htons((uint16_t)atoi(argv[2]));
    sock = socket(AF_INET, SOCK_STREAM, 0);
    set_text("TLS_REMOTE_HOSTNAME", TLS_REMOTE_HOSTNAME, argv[3]);
    set_text("TLS_TRUSTED_PEER_CERTIFICATES", TLS_TRUSTED_PEER_CERTIFICATES, argv[4]);
    set_text("TLS_CERTIFICATE_CHAIN", TLS_CERTIFICATE_CHAIN, argv[5]);
    set_text("TLS_PRIVATE_KEY", TLS_PRIVATE_KEY, argv[6]);
    set_text("TLS_ALPN", TLS_ALPN, "h2,http/1.1");
    if (setsockopt(sock, IPPROTO_TLS, TLS_SESSION_TTL, &ttl, sizeof(ttl)) != 0)
        fail("TLS_SESSION_TTL");
    set_text("TLS_TRUSTED_CIPHERS", TLS_TRUSTED_CIPHERS, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384");
    set_text("TLS_DISABLE_CIPHER", TLS_DISABLE_CIPHER, "TLS_AES_128_GCM_SHA256");
    set_text("TLS_ENABLE_CIPHER", TLS_ENABLE_CIPHER, "TLS_CHACHA20_POLY1305_SHA256");
    set_int("TLS_REQUEST_PEER_AUTH", TLS_REQUEST_PEER_AUTH, 2);
    set_int("TLS_SESSION_REUSE", TLS_SESSION_REUSE, 1);
    set_int("TLS_VERSION_MIN", TLS_VERSION_MIN, 0x0303);
    set_int("TLS_VERSION_MAX", TLS_VERSION_MAX, 0x0304);
    set_int("TLS_REVOCATION_CHECKS", TLS_REVOCATION_CHECKS, 0);
    set_int("TLS_OCSP_STAPLED_CHECKS", TLS_OCSP_STAPLED_CHECKS, 1);
    set_int("TLS_OCSP_CHECKS", TLS_OCSP_CHECKS, 0);
    set_int("TLS_CRL_CHECKS", TLS_CRL_CHECKS, 1);
    set_int("TLS_CACHED_REV_CHECKS", TLS_CACHED_REV_CHECKS, 1);
    set_int("TLS_SERVER_OCSP_STAPLING", TLS_SERVER_OCSP_STAPLING, 1);
    ID(TLS_CONTEXT);
    if (connect(sock, (struct sockaddr *)&addr, sizeof(addr)) != 0)
        fail("connect");
    TEXT(TLS_HOSTNAME);
    TEXT(TLS_HOSTNAME_2);
    TEXT(TLS_ALPN);
    LONG(TLS_SESSION_TTL);
    TEXT(TLS_PEER_IDENTITY);
    INT(TLS_REQUEST_PEER_AUTH);
    TEXT(TLS_PEER_CERTIFICATE_CHAIN);
    ID(TLS_ID);
    TEXT(TLS_TRUSTED_CIPHERS);
    TEXT(TLS_CHOSEN_CIPHER);
    TEXT(TLS_ERROR);
    INT(TLS_REVOCATION_CHECKS);
    INT(TLS_OCSP_STAPLED_CHECKS);
    INT(TLS_OCSP_CHECKS);
    INT(TLS_CRL_CHECKS);
    INT(TLS_CACHED_REV_CHECKS);
    INT(TLS_SESSION_REUSE);
    INT(TLS_RESUMED_SESSION);
    INT(TLS_VERSION_MIN);
    INT(TLS_VERSION_MAX);
    INT(TLS_VERSION_CONN);
    INT(TLS_SERVER_OCSP_STAPLING);
    INT(TLS_STATE);
    INT(TLS_PEER_CERTIFICATE_COUNT);
    get_bytes("TLS_PEER_CERTIFICATE", TLS_PEER_CERTIFICATE(0), 4096);
    get_bytes("TLS_PEER_CERTIFICATE_SHA256", TLS_PEER_CERTIFICATE_SHA256, 32);
    close(sock);
    return 0;
}
