package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/configs"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
)

const (
	enrolBase     = time.Second
	enrolCap      = 30 * time.Second
	maxTokenBytes = 4096
	// oldKey is the cluster's word for a key that it has taken away from this agent.
	oldKey = "old_key"
)

var (
	// ErrNotEnrolled says that the agent belongs to no cluster and has no token.
	ErrNotEnrolled = errors.New("this agent is not enrolled")
	// ErrToken says that the token cannot be used as it is given.
	ErrToken = errors.New("the join token cannot be used")
	// ErrEnrolment says that the cluster has refused the enrolment.
	ErrEnrolment = errors.New("enrolment was refused")
)

// readToken gives the token and the address in it, if there is one.
func readToken(c configs.Agent) (identity.Token, string, error) {
	text := c.Token
	if text == "" && c.TokenFile != "" {
		b, err := identity.ReadSecretFile(c.TokenFile, maxTokenBytes)
		if err != nil {
			return identity.Token{}, "", fmt.Errorf("%w: %w", ErrToken, err)
		}
		text = strings.TrimSpace(string(b))
	}
	if text == "" {
		return identity.Token{}, "", ErrNotEnrolled
	}
	token, address, err := identity.ParseTokenAt(text)
	if err != nil {
		return identity.Token{}, "", fmt.Errorf("%w: %w", ErrToken, err)
	}
	return token, address, nil
}

// enrolment registers the agent's key, and stores what the cluster answers.
type enrolment struct {
	config  configs.Agent
	version string
	dir     *directory
	dial    client.Dial
	clock   identity.Clock
	log     hclog.Logger
}

// Run tries until a node answers: hosts and nodes may boot in any order. A refusal of the
// token ends it, since trying again would not help.
func (e *enrolment) Run(ctx context.Context, r record) (record, error) {
	key, err := e.dir.openKey(keyFile)
	if err != nil {
		return r, err
	}
	for round := 0; ; round++ {
		answer, err := e.once(ctx, r, key)
		if err == nil {
			return e.store(r, answer)
		}
		if ctx.Err() != nil {
			return r, context.Cause(ctx)
		}
		if r.enrolled() && client.AsError(err).Reason == oldKey {
			// Its certificate is gone already, and the cluster has given the key up.
			if err := os.Remove(e.dir.file(keyFile)); err != nil {
				return r, err
			}
			if key, err = e.dir.openKey(keyFile); err != nil {
				return r, err
			}
			continue
		}
		if !transient(err) {
			return r, err
		}
		wait := rand.N(min(enrolBase<<min(round, 10), enrolCap) + 1)
		e.log.Warn("not enrolled yet", "err", err, "next_try_in", wait.Round(time.Millisecond).String())
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return r, context.Cause(ctx)
		case <-t.C:
		}
	}
}

func transient(err error) bool {
	if errors.Is(err, ErrToken) || errors.Is(err, ErrNotEnrolled) || errors.Is(err, identity.ErrBadProof) {
		return false
	}
	switch client.AsError(err).Code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Aborted, codes.Canceled:
		return true
	default:
		return false
	}
}

// once asks once. With the same key it enrols once, however often it is asked.
func (e *enrolment) once(ctx context.Context, r record, key identity.Key) (*agentplanev1.EnrollResponse, error) {
	token, address, err := readToken(e.config)
	if err != nil {
		return nil, err
	}
	addresses := slices.Clone(e.config.Servers)
	if address != "" && !slices.Contains(addresses, address) {
		addresses = append([]string{address}, addresses...)
	}
	if len(addresses) == 0 {
		return nil, fmt.Errorf("%w: it names no node and --servers is empty", ErrToken)
	}
	answer, err := client.Enroll(ctx, client.Enrolment{
		Addresses: addresses, Token: token,
		Options: client.Options{Dial: e.dial, Clock: e.clock, Unreachable: time.Nanosecond}, // whoever asks asks again, and says why
		Request: func(cluster string) ([]byte, error) {
			if r.enrolled() && r.ClusterID != cluster {
				return nil, fmt.Errorf("%w: it is of cluster %q, this directory belongs to %q; use another directory", ErrToken, cluster, r.ClusterID)
			}
			return identity.CreateRequest(key, identity.ID{Cluster: cluster, Kind: identity.KindAgent, Name: r.AgentID})
		},
		As: func(req *agentplanev1.EnrollRequest) {
			req.As = &agentplanev1.EnrollRequest_Agent{Agent: &agentplanev1.EnrollAgent{
				AgentId: r.AgentID, Name: agentName(e.config.Name), Labels: labels(e.config.Labels), Version: e.version,
			}}
		},
	})
	if err != nil {
		if !transient(err) && !errors.Is(err, ErrToken) {
			err = fmt.Errorf("%w: %w", ErrEnrolment, err)
		}
		return nil, err
	}
	if _, err := identity.NewCertificate(key, answer.GetCertificate()); err != nil {
		return nil, fmt.Errorf("%w: the certificate in the answer: %w", ErrEnrolment, err)
	}
	return answer, nil
}

// store makes the answer durable; agent.json comes last and says that it is complete.
func (e *enrolment) store(r record, answer *agentplanev1.EnrollResponse) (record, error) {
	if err := identity.ReplaceFile(e.dir.file(certificateFile), answer.GetCertificate()); err != nil {
		return r, err
	}
	if err := storeTrust(e.dir.file(trustFile), answer.GetBundle()); err != nil {
		return r, err
	}
	r.EnrolledAt = answer.GetNow()
	r.ClusterID, r.Name = answer.GetBundle().GetClusterId(), answer.GetName()
	if token, _, err := readToken(e.config); err == nil {
		r.TokenID = token.ID()
	}
	if err := r.store(e.dir.file(recordFile)); err != nil {
		return r, err
	}
	e.log.Info("enrolled", "cluster_id", r.ClusterID, "agent_id", r.AgentID, "name", r.Name)
	for _, note := range answer.GetNotes() {
		e.log.Warn(note)
	}
	return r, nil
}

// agentName is the configured name, or what of the host name may be one.
func agentName(configured string) string {
	if configured != "" {
		return configured
	}
	host, _ := os.Hostname()
	host = strings.Trim(strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '-', c == '_':
			return c
		}
		return '-'
	}, host), ".-")
	return host[:min(len(host), identity.MaxNameBytes)]
}

func labels(m map[string]string) []*agentplanev1.Label {
	var all []*agentplanev1.Label
	for name, value := range m {
		all = append(all, &agentplanev1.Label{Name: name, Value: value})
	}
	slices.SortFunc(all, func(a, b *agentplanev1.Label) int { return strings.Compare(a.GetName(), b.GetName()) })
	return all
}
