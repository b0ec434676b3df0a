package authz

import (
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// Rule says what a method asks of its caller.
type Rule struct {
	Permission string
	// OnLeader says that the leader runs it.
	OnLeader bool
}

// Permissions that are not a matter of roles.
const (
	Public = "public"
	Renew  = "renew"
	Agent  = "agent"
	Peer   = "peer"
	Local  = "local"
)

// Roles, weakest first: each may do what the ones before it may.
var roles = []string{"viewer", "runner", "operator", "admin"}

// grants says which role a permission needs at least. A permission that is not
// here is granted to nobody.
var grants = map[string]string{
	"cluster.read":     "viewer",
	"agents.read":      "viewer",
	"commands.read":    "viewer",
	"templates.read":   "viewer",
	"templates.run":    "runner", // and nothing else
	"templates.write":  "admin",
	"tokens.read":      "admin",
	"operators.read":   "admin",
	"commands.submit":  "operator",
	"commands.cancel":  "operator",
	"schedules.read":   "viewer",
	"schedules.write":  "operator",
	"schedules.run":    "operator",
	"locks.read":       "viewer",
	"locks.acquire":    "operator",
	"locks.manage":     "admin", // a budget holds up everybody's commands
	"agents.label":     "admin", // labels decide who is meant
	"agents.remove":    "admin",
	"agents.readmit":   "admin",
	"cluster.check":    "admin", // it costs a node the reading of all its state
	"cluster.remove":   "admin",
	"cluster.transfer": "admin",
	"keys.read":        "admin",
	"keys.rotate":      "admin",
	"tokens.create":    "admin",
	"tokens.revoke":    "admin",
	"operators.revoke": "admin",
}

// Allowed says whether the role has the permission.
func Allowed(role, permission string) bool {
	needed, ok := grants[permission]
	return ok && rank(role) >= rank(needed)
}

func rank(role string) int {
	for i, r := range roles {
		if r == role {
			return i
		}
	}
	return -1
}

// Rules returns the rule of every method of the API by its full name
// ("/agentplane.v1.CommandService/Submit"). Methods that name no permission are not
// there.
func Rules() map[string]Rule {
	rules := make(map[string]Rule)
	for _, file := range []protoreflect.FileDescriptor{
		agentplanev1.File_agentplane_v1_access_proto,
		agentplanev1.File_agentplane_v1_agent_proto,
		agentplanev1.File_agentplane_v1_blob_proto,
		agentplanev1.File_agentplane_v1_cluster_proto,
		agentplanev1.File_agentplane_v1_command_proto,
		agentplanev1.File_agentplane_v1_enroll_proto,
		agentplanev1.File_agentplane_v1_fleet_proto,
		agentplanev1.File_agentplane_v1_local_proto,
		agentplanev1.File_agentplane_v1_lock_proto,
		agentplanev1.File_agentplane_v1_peer_proto,
		agentplanev1.File_agentplane_v1_schedule_proto,
		agentplanev1.File_agentplane_v1_template_proto,
	} {
		for s := range file.Services().Len() {
			service := file.Services().Get(s)
			for m := range service.Methods().Len() {
				method := service.Methods().Get(m)
				permission, _ := proto.GetExtension(method.Options(), agentplanev1.E_Permission).(string)
				onLeader, _ := proto.GetExtension(method.Options(), agentplanev1.E_OnLeader).(bool)
				if permission != "" {
					rules[fullName(service, method)] = Rule{Permission: permission, OnLeader: onLeader}
				}
			}
		}
	}
	return rules
}

func fullName(s protoreflect.ServiceDescriptor, m protoreflect.MethodDescriptor) string {
	return strings.Join([]string{"", string(s.FullName()), string(m.Name())}, "/")
}
