package consensus

import (
	"fmt"
	"time"
)

// Profile is a set of raft's timers for one kind of network.
type Profile struct {
	Heartbeat time.Duration // without contact for this long, a follower campaigns
	Election  time.Duration // a candidate tries again after this
	Lease     time.Duration // a leader without a majority for this long steps down
	Commit    time.Duration // how soon followers learn what has committed when all is quiet
}

// The profiles of DESIGN section 10.
var (
	LAN     = Profile{Heartbeat: 250 * time.Millisecond, Election: 250 * time.Millisecond, Lease: 125 * time.Millisecond, Commit: 5 * time.Millisecond}
	LANFast = Profile{Heartbeat: 100 * time.Millisecond, Election: 100 * time.Millisecond, Lease: 50 * time.Millisecond, Commit: 5 * time.Millisecond}
	WAN     = Profile{Heartbeat: time.Second, Election: time.Second, Lease: 500 * time.Millisecond, Commit: 50 * time.Millisecond}
)

// ParseProfile returns the profile that the configuration calls name.
func ParseProfile(name string) (Profile, error) {
	switch name {
	case "lan":
		return LAN, nil
	case "lan-fast":
		return LANFast, nil
	case "wan":
		return WAN, nil
	}
	return Profile{}, fmt.Errorf("profile %q is not known: use lan, lan-fast or wan", name)
}
