package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
)

// guest is a virtual machine with a disk. Its power may be cut and given again. Three serial
// ports lead to this test past the guest's network: the witness, to which programs tell that
// they begin; the console, a shell; and the monitor of the machine itself.
//
// It ends with the namespaces of the test, if not before.
type guest struct {
	kit          *guestKit
	dir, witness string // the guest's own directory; that of the witness's files
	disk, serial string
	listeners    map[string]*net.UnixListener
	started      chan string // gets the invocation of a program that begins, when somebody listens

	cmd     *exec.Cmd
	ended   chan struct{} // closed when the machine has ended
	asking  sync.Mutex    // guards the console
	asked   int
	console *bufio.Reader
	monitor *json.Decoder
	ports   []net.Conn
	reading sync.WaitGroup // the one who reads the witness
}

var guestPorts = []string{"witness", "console", "monitor"}

// newGuest makes a guest whose agentd gets these arguments. It has no power yet.
func newGuest(k *guestKit, f *fleet, agentArgs ...string) (*guest, error) {
	g := &guest{kit: k, dir: filepath.Join(f.Dir, "guest"), witness: f.witnesses, listeners: make(map[string]*net.UnixListener), started: make(chan string)}
	g.disk, g.serial = filepath.Join(g.dir, "disk"), filepath.Join(f.Dir, "logs", "guest.log")
	if err := os.Mkdir(g.dir, 0o700); err != nil {
		return nil, err
	}
	for _, port := range guestPorts {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: g.socket(port), Net: "unix"})
		if err != nil {
			return nil, err
		}
		g.listeners[port] = l
	}
	// A host with a firewall knows of each connection from its first packet on; the table base
	// sees to that. What agents run has the same path there as here; so has the directory of the witness,
	// in which its port lies.
	init := fmt.Sprintf(`
ip link set lo up
ip addr add %[1]s/24 dev eth0
ip link set eth0 up
mount -t ext4 /dev/vda /data || poweroff -f
nft 'table inet base { chain in { type filter hook input priority -10; ct state established counter accept; }; }'
if [ -e /data/firewall ]; then nft -f /data/firewall; fi
mkdir -p %[2]s %[3]s
until [ -c /dev/vport*p1 ] && [ -c /dev/vport*p2 ]; do usleep 10000; done
ln -s /dev/vport*p1 %[2]s/%[4]s
ln -s /data/bin/e2e %[5]s
while :; do setsid sh <>$(echo /dev/vport*p2) >&0 2>&1; sleep 1; done &
export MUTANT=%[6]s
while :; do
	/data/bin/agentd run --data-dir /data/agent --name guest %[7]s
	echo "agentd ended with $?"
	sleep 1
done
`, guestAddress, f.witnesses, filepath.Dir(f.self), witnessPort, f.self, os.Getenv("MUTANT"), strings.Join(agentArgs, " "))
	return g, errors.Join(writeInitrd(filepath.Join(g.dir, "initrd"), k, init), writeDisk(g.disk, k, f.Bin.Agentd))
}

func (g *guest) socket(port string) string { return filepath.Join(g.dir, port) }

// guestArgs are the arguments of every machine.
func guestArgs(k *guestKit, accel, initrd string, more ...string) []string {
	cpu := "max"
	if accel == "kvm" {
		cpu = "host"
	}
	return append([]string{
		"-accel", accel, "-cpu", cpu, "-m", "256", "-nodefaults", "-no-user-config", "-display", "none",
		"-kernel", k.kernel, "-initrd", initrd, "-append", "console=ttyS0 quiet panic=-1",
	}, more...)
}

// power starts the machine. What the guest has written and not flushed is in its own memory;
// what it has flushed is in the file of the disk, which outlives the machine.
func (g *guest) power(more ...string) error {
	args := guestArgs(g.kit, g.kit.accel, filepath.Join(g.dir, "initrd"),
		"-drive", "file="+g.disk+",format=raw,if=virtio,cache=writeback",
		"-netdev", "tap,id=net,ifname="+guestTap+",script=no,downscript=no", "-device", "virtio-net-pci,netdev=net,romfile=",
		"-chardev", "file,id=serial,append=on,path="+g.serial, "-serial", "chardev:serial",
		"-device", "virtio-serial-pci",
		"-chardev", "socket,id=witness,path="+g.socket("witness"), "-device", "virtserialport,nr=1,chardev=witness",
		"-chardev", "socket,id=console,path="+g.socket("console"), "-device", "virtserialport,nr=2,chardev=console",
		"-chardev", "socket,id=monitor,path="+g.socket("monitor"), "-mon", "chardev=monitor,mode=control")
	log, err := os.OpenFile(g.serial, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(g.kit.tools["qemu-system-x86_64"], append(args, more...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended shows in the guest's log
		close(ended)
	}()
	g.cmd, g.ended = cmd, ended
	for _, port := range guestPorts {
		l := g.listeners[port]
		if err := l.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			return err
		}
		conn, err := l.Accept()
		if err != nil {
			return fmt.Errorf("the machine does not open its port %s; see %s: %w", port, g.serial, err)
		}
		g.ports = append(g.ports, conn)
		switch port {
		case "witness":
			g.reading.Go(func() { g.hear(conn) })
		case "console":
			g.console = bufio.NewReader(conn)
		case "monitor":
			g.monitor = json.NewDecoder(conn)
		}
	}
	_, err = g.tell("qmp_capabilities")
	return err
}

// cut ends the machine at once, as a cut of its power does, and waits until all that its
// programs told is written down. It says whether the machine ran.
func (g *guest) cut() bool {
	if g.cmd == nil {
		return false
	}
	alive := g.cmd.Process.Kill() == nil
	<-g.ended
	g.reading.Wait()
	for _, conn := range g.ports {
		_ = conn.Close() // the other end is gone
	}
	g.cmd, g.ports = nil, nil
	return alive
}

func (g *guest) close() {
	g.cut()
	for _, l := range g.listeners {
		_ = l.Close()
	}
}

// hear writes down what programs tell before they go on, and answers when it is written.
func (g *guest) hear(conn net.Conn) {
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		agent, line, _ := strings.Cut(lines.Text(), " ")
		if err := appendLine(filepath.Join(g.witness, filepath.Base(agent)), line); err != nil {
			return // nobody is answered any more, and no program goes on
		}
		if _, err := fmt.Fprintln(conn, line); err != nil {
			return
		}
		invocation, _, _ := strings.Cut(line, " ")
		select {
		case g.started <- invocation:
		default:
		}
	}
}

// ask runs a line in a shell of the guest, past its network, and answers what it printed.
func (g *guest) ask(ctx context.Context, line string) (string, error) {
	g.asking.Lock()
	defer g.asking.Unlock()
	g.asked++
	mark := fmt.Sprintf("=%d=", g.asked)
	conn := g.ports[1]
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(conn, "( %s\n) </dev/null; echo \"%s$?\"\n", line, mark); err != nil {
		return "", err
	}
	var said strings.Builder
	for {
		l, err := g.console.ReadString('\n')
		if err != nil {
			return said.String(), fmt.Errorf("ask the guest %q: %w", line, err)
		}
		if code, end := strings.CutPrefix(strings.TrimSpace(l), mark); end {
			if code != "0" {
				return said.String(), fmt.Errorf("%q in the guest ended with %s: %s", line, code, said.String())
			}
			return said.String(), nil
		}
		said.WriteString(l)
	}
}

// must is ask with an answer.
func (g *guest) must(t *testing.T, line string) string {
	t.Helper()
	said, err := g.ask(within(t, time.Minute), line)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(said)
}

// tell has the machine itself do something, and answers what it says of it. Arguments are
// pairs of names and values.
func (g *guest) tell(command string, pairs ...string) (map[string]any, error) {
	arguments := make(map[string]string)
	for i := 0; i < len(pairs); i += 2 {
		arguments[pairs[i]] = pairs[i+1]
	}
	conn := g.ports[2]
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return nil, err
	}
	if err := json.NewEncoder(conn).Encode(map[string]any{"execute": command, "arguments": arguments}); err != nil {
		return nil, err
	}
	for { // between the answers it tells what happens
		var said struct {
			Return json.RawMessage
			Error  json.RawMessage
		}
		if err := g.monitor.Decode(&said); err != nil {
			return nil, fmt.Errorf("tell the machine %s: %w", command, err)
		}
		if said.Error != nil {
			return nil, fmt.Errorf("tell the machine %s: %s", command, said.Error)
		}
		if said.Return != nil {
			var what map[string]any
			return what, json.Unmarshal(said.Return, &what)
		}
	}
}

// guestFleet is three nodes and a guest whose agent is online.
func guestFleet(t *testing.T, k *guestKit, nodeArgs, agentArgs []string) (*fleet, *guest) {
	t.Helper()
	f := newFleet(t, 0, append([]string{
		"--listen", nodesAddress + ":0", "--advertise", nodesAddress, "--gossip-listen", nodesAddress + ":0", "--gossip-advertise", nodesAddress,
	}, nodeArgs...), nil)
	token := mustToken(t, f.Lab, "agent")
	g, err := newGuest(k, f, append([]string{"--servers", strings.Join(f.addresses, ","), "--token", token}, agentArgs...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.close)
	f.agents = []*lab.Agent{{Process: lab.Process{Name: "guest"}}} // one that no lab starts
	if err := g.power(); err != nil {
		t.Fatal(err)
	}
	f.awaitGuest(t)
	return f, g
}

// awaitGuest waits until the guest's agent takes work.
func (f *fleet) awaitGuest(t *testing.T) {
	t.Helper()
	await(t, 2*time.Minute, "the guest's agent takes work", func() error {
		v, err := f.agentView(t.Context(), "guest")
		if err == nil && v.Health != "ONLINE" && v.Health != "FLAPPING" {
			err = fmt.Errorf("%+v", v)
		}
		return err
	})
}

// bootID is that of the guest's kernel.
func (g *guest) bootID(t *testing.T) string {
	t.Helper()
	return g.must(t, "cat /proc/sys/kernel/random/boot_id")
}

// uptime is how long the guest's kernel runs.
func (g *guest) uptime(t *testing.T) float64 {
	t.Helper()
	up, err := strconv.ParseFloat(strings.Fields(g.must(t, "cat /proc/uptime"))[0], 64)
	if err != nil {
		t.Fatal(err)
	}
	return up
}
