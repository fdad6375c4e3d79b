# The trial of the Debian package, as root in a clean Debian 12 whose first process is systemd.

set -eu
fail() { echo "trial: FAILED: $*"; journalctl -u ssa-agent --no-pager -n 40 || true; exit 1; }
say() { echo "trial: $*"; }
# until WHAT COMMAND...: within 30 s
until_() { what=$1; shift; for _ in $(seq 300); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done; fail "not within 30 s: $what"; }
has() { printf '%s' "$1" | grep -qF -- "$2" || fail "no \"$2\" in: $1"; }

cd /trial
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=root -keyout ca.key -out ca.pem 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=peer -keyout key.pem -out csr.pem 2>/dev/null
printf 'subjectAltName=DNS:peer.ssa.test\n' > ext
openssl x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 1 -extfile ext -out leaf.pem 2>/dev/null
chmod 644 *.pem
for host in 127.0.0.2 127.0.0.3; do
	openssl s_server -quiet -rev -accept $host:4433 -cert leaf.pem -key key.pem >/dev/null 2>&1 </dev/null &
done
fetch="python3 /trial/program.py fetch 127.0.0.2 4433 peer.ssa.test /trial/ca.pem"

say "install"
dpkg -i old.deb || fail "installing"
[ "$(systemctl is-enabled ssa-agent)" = enabled ] || fail "it is not enabled"
until_ "it runs" systemctl is-active ssa-agent
[ "$(systemctl show -p Type,StatusErrno --value ssa-agent | head -1)" = notify ] || fail "it is not of type notify"
has "$(ssa-agent status)" "0  services"
for page in ssa-agent.8 ssa-agent-run.8 ssa-tls.7 ssa-agent.toml.5; do
	section=${page##*.}
	[ -s "/usr/share/man/man$section/$page.gz" ] || [ -e /etc/dpkg/dpkg.cfg.d/docker ] || say "no page $page (excluded here?)"
done
schema=$(sed -n "1s|^#:schema file://||p" /etc/ssa/agent.toml)
[ -s "$schema" ] || fail "no schema where the configuration says: $schema"
[ -s /usr/share/bash-completion/completions/ssa-agent ] || fail "no completions"
bash -c '. /usr/share/bash-completion/completions/ssa-agent && complete -p ssa-agent' | grep -q ssa-agent || fail "bash does not complete"
grep -h "^CapEff" "/proc/$(systemctl show -p MainPID --value ssa-agent)/status"

say "services of systemd"
sed -i 's/^#listen = /listen = /' /etc/ssa/agent.toml
cat >> /etc/ssa/agent.toml <<'TOML'
[[service]]
unit = "app*.service"
TOML
ssa-agent check >/dev/null 2>/tmp/check || fail "the configuration: $(cat /tmp/check)"
systemctl reload ssa-agent || fail "reload"
# It takes the monitor at its start only.
systemctl restart ssa-agent
until_ "it runs" systemctl is-active ssa-agent
run() { systemd-run --quiet --collect --wait --pipe "$@" 2>&1 || true; }
delayed="sh -c 'sleep 1; exec \"\$@\"' sh"
has "$(run --unit=app1 sh -c "sleep 1; $fetch")" "fetched cba"
has "$(run --unit=app2 -p DynamicUser=yes sh -c "sleep 1; $fetch")" "fetched cba"
has "$(run --unit=other sh -c "sleep 1; $fetch")" "Protocol not available"

say "what systemd forbids a service, it can't do through the agent"
only="-p IPAddressDeny=any -p IPAddressAllow=127.0.0.2 -p IPAddressAllow=127.204.0.0/15"
has "$(run --unit=app3 $only sh -c "sleep 1; $fetch")" "fetched cba"
has "$(run --unit=app4 $only sh -c "sleep 1; $(printf %s "$fetch" | sed s/127.0.0.2/127.0.0.3/)")" "EHOSTUNREACH: no answer from 127.0.0.3"
has "$(run --unit=app5 -p IPAddressDeny=any -p IPAddressAllow=127.0.0.2 sh -c "sleep 1; $fetch")" "must let it reach 127.204.0.0/15"

say "metrics and the journal"
metrics=$(python3 - <<'PY'
import socket
sock = socket.create_connection(("127.0.0.1", 15020)); sock.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
print(b"".join(iter(lambda: sock.recv(65536), b"")).decode())
PY
)
has "$metrics" "ssa_connections_opened_total"
journalctl --sync
has "$(journalctl -u ssa-agent TARGET=access SSA_NAME=peer.ssa.test -o cat --no-pager)" "closed"
[ "$(journalctl -u ssa-agent TARGET=access SSA_ERRNO=EHOSTUNREACH -o cat --no-pager | wc -l)" = 2 ] || fail "refusals in the journal"

say "upgrade, with a connection open and a server that listens"
systemd-run --quiet --unit=app6 -p StandardOutput=file:/tmp/hold sh -c "sleep 1; exec python3 /trial/program.py hold 127.0.0.2 4433 peer.ssa.test /trial/ca.pem"
systemd-run --quiet --unit=app7 sh -c "sleep 1; exec python3 /trial/program.py serve 4434 /trial/leaf.pem /trial/key.pem"
until_ "the application has connected" grep -q connected /tmp/hold
served() { openssl s_client -connect 127.0.0.1:4434 -CAfile /trial/ca.pem -verify_hostname peer.ssa.test -verify_return_error </dev/null 2>&1 | grep -q "Verify return code: 0"; }
until_ "the server serves" served
old=$(systemctl show -p MainPID --value ssa-agent)
has "$(dpkg -i --force-confold new.deb 2>&1 | tee /dev/stderr)" "the one before it finishes 1 connections"
[ "$(systemctl show -p MainPID --value ssa-agent)" != "$old" ] || fail "the old process is still the main one"
served || fail "the server does not serve"
! grep -q ended /tmp/hold || fail "an open connection was reset"
systemctl stop app6
until_ "the old process has ended" sh -c "! kill -0 $old 2>/dev/null"
systemctl is-active ssa-agent || fail "the service is not active"
has "$(run --unit=app8 sh -c "sleep 1; $fetch")" "fetched cba"
has "$(dpkg-query -W ssa-agent)" "-2"

say "killed"
kill -9 "$(systemctl show -p MainPID --value ssa-agent)"
until_ "systemd has started it again" served

say "remove and purge"
systemctl stop app7
dpkg --remove ssa-agent || fail "removing"
[ -z "$(bpftool cgroup tree 2>/dev/null | grep -w ssa_egress)" ] || fail "something is still attached"
[ ! -e /usr/bin/ssa-agent ] || fail "the executable is still there"
dpkg --purge ssa-agent || fail "purging"
for left in /etc/ssa /run/ssa-agent /usr/bin/ssa-agent /lib/systemd/system/ssa-agent.service; do
	[ ! -e $left ] || fail "$left is left"
done
[ -z "$(ls /sys/fs/bpf/ssa 2>/dev/null)" ] || fail "pins are left: $(find /sys/fs/bpf/ssa | head)"
echo "trial: passed"
