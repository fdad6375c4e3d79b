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
for host in 127.0.0.2 127.0.0.3 127.0.0.4; do
	openssl s_server -quiet -rev -accept $host:4433 -cert leaf.pem -key key.pem >/dev/null 2>&1 </dev/null &
done
python3 program.py answer 0.0.0.0 4435 >/dev/null &
fetch="python3 /trial/program.py fetch 127.0.0.2 4433 peer.ssa.test /trial/ca.pem"
# A rule is for 127.0.0.4, where one port has a server that speaks TLS and the other one that does not.
ruled="python3 /trial/program.py plain 127.0.0.4 4433"
plain="python3 /trial/program.py plain 127.0.0.4 4435"

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

say "the order at boot"
[ -e /etc/systemd/system/basic.target.wants/ssa-agent.service ] || fail "basic.target does not want it"
has " $(systemctl show -p Before --value ssa-agent) " " basic.target "
has " $(systemctl show -p After --value ssa-agent) " " sysinit.target "
loops=$(systemd-analyze verify --man=no default.target 2>&1 | grep -i "ordering cycle" || true)
[ -z "$loops" ] || fail "units wait for each other: $loops"

say "services of systemd"
sed -i 's/^#listen = /listen = /' /etc/ssa/agent.toml
cat >> /etc/ssa/agent.toml <<'TOML'
[[service]]
unit = "app*.service"
[[rule]]
name = "peer"
service = { unit = "app*.service" }
direction = "out"
address = "127.0.0.4"
hostname = "peer.ssa.test"
trust = { system = false, files = ["/trial/ca.pem"] }
TOML
ssa-agent check >/dev/null 2>/tmp/check || fail "the configuration: $(cat /tmp/check)"
systemctl reload ssa-agent || fail "reload"
# It takes the monitor at its start only.
systemctl restart ssa-agent
until_ "it runs" systemctl is-active ssa-agent
run() { systemd-run --quiet --collect --wait --pipe "$@" 2>&1 || true; }
has "$(run --unit=app1 $fetch)" "fetched cba"
has "$(run --unit=app2 -p DynamicUser=yes $fetch)" "fetched cba"
# Who is served by nobody is told so by the option, or by connect if that comes before the agent has decided.
came=$(run --unit=other $fetch)
case $came in *"Protocol not available"* | *"EHOSTUNREACH: the application's cgroup is served by no agent"*) ;; *) fail "other: $came" ;; esac

say "rules"
has "$(run --unit=app3 $ruled)" "fetched cba"
has "$(run --unit=app4 $plain)" "EPROTO"
has "$(run --unit=other $plain)" "fetched cba"

say "a unit that begins again and again, and connects at once"
for turn in $(seq 30); do has "$(run --unit=app16 $ruled)" "fetched cba"; done

say "what systemd forbids a service, it can't do through the agent"
only="-p IPAddressDeny=any -p IPAddressAllow=127.0.0.2 -p IPAddressAllow=127.204.0.0/15"
has "$(run --unit=app5 $only $fetch)" "fetched cba"
has "$(run --unit=app6 $only ${fetch/127.0.0.2/127.0.0.3})" "EHOSTUNREACH: no answer from 127.0.0.3"
has "$(run --unit=app7 -p IPAddressDeny=any -p IPAddressAllow=127.0.0.2 $fetch)" "must let it reach 127.204.0.0/15"

say "metrics and the journal"
# Metrics are of services that are there.
systemd-run --quiet --unit=app8 -p StandardOutput=file:/tmp/hold python3 /trial/program.py hold 127.0.0.2 4433 peer.ssa.test /trial/ca.pem
until_ "the application has connected" grep -q connected /tmp/hold
metrics=$(python3 - <<'PY'
import socket
sock = socket.create_connection(("127.0.0.1", 15020)); sock.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
print(b"".join(iter(lambda: sock.recv(65536), b"")).decode())
PY
)
has "$metrics" "ssa_connections_opened_total"
journalctl --sync
has "$(journalctl -u ssa-agent TARGET=access SSA_NAME=peer.ssa.test -o cat --no-pager)" "closed"
of() { printf 'SSA_SERVICE=/sys/fs/cgroup/system.slice/%s.service ' "$@"; }
[ "$(journalctl -u ssa-agent TARGET=access SSA_ERRNO=EHOSTUNREACH $(of app6 app7) -o cat --no-pager | wc -l)" = 2 ] || fail "refusals in the journal"

say "upgrade, with a connection open and a server that listens"
systemd-run --quiet --unit=app9 python3 /trial/program.py serve 4434 /trial/leaf.pem /trial/key.pem
served() { timeout 10 openssl s_client -connect 127.0.0.1:4434 -CAfile /trial/ca.pem -verify_hostname peer.ssa.test -verify_return_error </dev/null 2>&1 | grep -q "Verify return code: 0"; }
until_ "the server serves" served
old=$(systemctl show -p MainPID --value ssa-agent)
has "$(dpkg -i --force-confold new.deb 2>&1 | tee /dev/stderr)" "the one before it finishes 1 connections"
[ "$(systemctl show -p MainPID --value ssa-agent)" != "$old" ] || fail "the old process is still the main one"
served || fail "the server does not serve"
! grep -q ended /tmp/hold || fail "an open connection was reset"
systemctl stop app8
until_ "the old process has ended" sh -c "! kill -0 $old 2>/dev/null"
systemctl is-active ssa-agent || fail "the service is not active"
has "$(run --unit=app10 $fetch)" "fetched cba"
has "$(dpkg-query -W ssa-agent)" "-2"

say "killed"
kill -9 "$(systemctl show -p MainPID --value ssa-agent)"
until_ "systemd has started it again" served

say "stopped: what was TLS is refused"
systemctl stop ssa-agent
has "$(run --unit=app11 $plain)" "ENOTCONN"
has "$(run --unit=app12 $fetch)" "Transport endpoint is not connected"
! served || fail "the server serves"
has "$(run --unit=app13 ${plain/127.0.0.4/127.0.0.5})" "fetched cba"
has "$(ssa-agent cleanup)" "rules make traffic TLS"
! ssa-agent cleanup --take-away || fail "guards were taken away on which something depends"
has "$(run --unit=app14 $plain)" "ENOTCONN"

say "a service that needs it"
cat > /etc/systemd/system/needs.service <<UNIT
[Service]
Type=oneshot
DynamicUser=yes
ExecStart=$fetch
StandardOutput=file:/tmp/needs
UNIT
mkdir /etc/systemd/system/needs.service.d
cp /usr/share/ssa-agent/ssa-agent-required.conf /etc/systemd/system/needs.service.d/
systemctl daemon-reload
systemctl start needs || fail "needs: $(systemctl status --no-pager needs)"
has "$(cat /tmp/needs)" "fetched cba"
systemctl is-active ssa-agent || fail "it has not started the agent"
has "$(run --unit=app15 $ruled)" "fetched cba"
until_ "the server serves again" served
systemctl stop app9

say "remove: what was TLS is still refused"
removed=$(dpkg --remove ssa-agent 2>&1 | tee /dev/stderr) || fail "removing"
has "$removed" "ssa-agent: guards stay attached"
has "$removed" "ssa-agent cleanup --plaintext"
[ ! -e /usr/bin/ssa-agent ] || fail "the executable is still there"
has "$(run --unit=app16 $plain)" "ENOTCONN"
! systemctl start needs 2>/dev/null || fail "a service that needs the agent starts without it"

say "install again: it takes up what was left"
dpkg -i --force-confold new.deb || fail "installing again"
has "$(run --unit=app17 $ruled)" "fetched cba"

say "plaintext on purpose, remove and purge"
systemctl stop ssa-agent
has "$(ssa-agent cleanup --plaintext)" "services are PLAINTEXT"
has "$(run --unit=app18 $plain)" "fetched cba"
removed=$(dpkg --remove ssa-agent 2>&1 | tee /dev/stderr) || fail "removing"
! printf '%s' "$removed" | grep -q "guards stay attached" || fail "guards are left"
[ -z "$(bpftool cgroup tree 2>/dev/null | grep -w ssa_egress)" ] || fail "something is still attached"
[ ! -e /usr/bin/ssa-agent ] || fail "the executable is still there"
dpkg --purge ssa-agent || fail "purging"
for left in /etc/ssa /run/ssa-agent /usr/bin/ssa-agent /lib/systemd/system/ssa-agent.service; do
	[ ! -e $left ] || fail "$left is left"
done
[ -z "$(ls -d /sys/fs/bpf/ssa/v*-* 2>/dev/null)" ] || fail "pins are left: $(find /sys/fs/bpf/ssa | head)"
echo "trial: passed"
