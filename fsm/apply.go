package fsm

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// apply executes one mutation. Everything but taking office and founding the
// cluster is refused before the cluster has an id.
func (tx *tx) apply(mut *raftlogv1.Mutation) *raftlogv1.Outcome {
	if in := raftlogv1.Unknown(mut); in != "" {
		if mut.GetSkippable() {
			return &raftlogv1.Outcome{Code: raftlogv1.Code_CODE_OK, Reason: "skipped"}
		}
		panic(fmt.Sprintf("fsm: mutation %d of entry %d holds an unknown field of %s, which this build does not know: this node is older than the cluster; upgrade it",
			tx.ordinal, tx.index, in))
	}
	if tx.entryBytes > raftlogv1.MaxMutationBytes {
		if n := proto.Size(mut); n > raftlogv1.MaxMutationBytes {
			return refuse(raftlogv1.Code_CODE_INVALID, "too_large", "the mutation has %d bytes, at most %d are allowed", n, raftlogv1.MaxMutationBytes)
		}
	}
	switch k := mut.GetKind().(type) {
	case *raftlogv1.Mutation_TakeOffice:
		if !tx.takesOffice {
			return refuse(raftlogv1.Code_CODE_INVALID, "not_alone", "a leader takes office in an entry of its own, which carries no leader epoch")
		}
		return tx.takeOffice(k.TakeOffice)
	case *raftlogv1.Mutation_InitCluster:
		return tx.initCluster(k.InitCluster)
	}
	if tx.cluster.GetClusterId() == "" {
		return refuse(raftlogv1.Code_CODE_REFUSED, "no_cluster", "the cluster has not been initialized")
	}
	switch k := mut.GetKind().(type) {
	case *raftlogv1.Mutation_RegisterNode:
		return tx.registerNode(k.RegisterNode)
	case *raftlogv1.Mutation_NodeStarted:
		return tx.nodeStarted(k.NodeStarted)
	case *raftlogv1.Mutation_RemoveNode:
		return tx.removeNode(k.RemoveNode)
	case *raftlogv1.Mutation_RaiseFeatureLevel:
		return tx.raiseFeatureLevel(k.RaiseFeatureLevel)
	case *raftlogv1.Mutation_PutSetting:
		return tx.putSetting(k.PutSetting)
	case *raftlogv1.Mutation_SetKeyring:
		return tx.setKeyring(k.SetKeyring)

	case *raftlogv1.Mutation_CreateToken:
		return tx.createToken(k.CreateToken)
	case *raftlogv1.Mutation_RevokeToken:
		return tx.revokeToken(k.RevokeToken)
	case *raftlogv1.Mutation_PurgeTokens:
		return tx.purgeTokens(k.PurgeTokens)
	case *raftlogv1.Mutation_EnrollOperator:
		return tx.enrollOperator(k.EnrollOperator)
	case *raftlogv1.Mutation_RevokeOperator:
		return tx.revokeOperator(k.RevokeOperator)

	case *raftlogv1.Mutation_EnrollAgent:
		return tx.enrollAgent(k.EnrollAgent)
	case *raftlogv1.Mutation_RemoveAgent:
		return tx.removeAgent(k.RemoveAgent)
	case *raftlogv1.Mutation_SetAgentLabels:
		return tx.setAgentLabels(k.SetAgentLabels)
	case *raftlogv1.Mutation_ReportFacts:
		return tx.reportFacts(k.ReportFacts)
	case *raftlogv1.Mutation_ReadmitAgent:
		return tx.readmitAgent(k.ReadmitAgent)
	case *raftlogv1.Mutation_OpenSession:
		return tx.openSession(k.OpenSession)
	case *raftlogv1.Mutation_ReadySession:
		return tx.readySession(k.ReadySession)
	case *raftlogv1.Mutation_EndSession:
		return tx.endSession(k.EndSession)
	case *raftlogv1.Mutation_LoseNodeSessions:
		return tx.loseNodeSessions(k.LoseNodeSessions)
	case *raftlogv1.Mutation_MarkDown:
		return tx.markDown(k.MarkDown)

	case *raftlogv1.Mutation_SubmitCommand:
		return tx.submitCommand(k.SubmitCommand)
	case *raftlogv1.Mutation_ReleaseCommand:
		return tx.releaseCommand(k.ReleaseCommand)
	case *raftlogv1.Mutation_ClaimAttempt:
		return tx.claimAttempt(k.ClaimAttempt)
	case *raftlogv1.Mutation_ReportAttempt:
		return tx.reportAttempt(k.ReportAttempt)
	case *raftlogv1.Mutation_CancelCommand:
		return tx.cancelCommand(k.CancelCommand)
	case *raftlogv1.Mutation_ExpireCommands:
		return tx.expireCommands(k.ExpireCommands)
	case *raftlogv1.Mutation_LoseAttempt:
		return tx.loseAttempt(k.LoseAttempt)
	case *raftlogv1.Mutation_PurgeCommands:
		return tx.purgeCommands(k.PurgeCommands)

	case *raftlogv1.Mutation_AdvanceRollout:
		return tx.advanceRollout(k.AdvanceRollout)
	case *raftlogv1.Mutation_PauseCommand:
		return tx.pauseCommand(k.PauseCommand)
	case *raftlogv1.Mutation_ResumeCommand:
		return tx.resumeCommand(k.ResumeCommand)
	case *raftlogv1.Mutation_AbortCommand:
		return tx.abortCommand(k.AbortCommand)

	case *raftlogv1.Mutation_ConfirmCommand:
		return tx.confirmCommand(k.ConfirmCommand)

	case *raftlogv1.Mutation_PutSchedule:
		return tx.putSchedule(k.PutSchedule)
	case *raftlogv1.Mutation_DeleteSchedule:
		return tx.deleteSchedule(k.DeleteSchedule)
	case *raftlogv1.Mutation_PauseSchedule:
		return tx.pauseSchedule(k.PauseSchedule)
	case *raftlogv1.Mutation_ResumeSchedule:
		return tx.resumeSchedule(k.ResumeSchedule)
	case *raftlogv1.Mutation_FireSchedule:
		return tx.fireSchedule(k.FireSchedule)
	case *raftlogv1.Mutation_EndSchedules:
		return tx.endSchedules(k.EndSchedules)
	case *raftlogv1.Mutation_PurgeSchedules:
		return tx.purgeSchedules(k.PurgeSchedules)

	case *raftlogv1.Mutation_RecordOutput:
		return tx.recordOutput(k.RecordOutput)

	case *raftlogv1.Mutation_RecordBlob:
		return tx.recordBlob(k.RecordBlob)
	case *raftlogv1.Mutation_ExpireBlobs:
		return tx.expireBlobs(k.ExpireBlobs)

	case *raftlogv1.Mutation_PutTemplate:
		return tx.putTemplate(k.PutTemplate)
	case *raftlogv1.Mutation_DeleteTemplate:
		return tx.deleteTemplate(k.DeleteTemplate)

	case *raftlogv1.Mutation_CreateLock:
		return tx.createLock(k.CreateLock)
	case *raftlogv1.Mutation_DeleteLock:
		return tx.deleteLock(k.DeleteLock)
	case *raftlogv1.Mutation_AcquireLock:
		return tx.acquireLock(k.AcquireLock)
	case *raftlogv1.Mutation_RenewLock:
		return tx.renewLock(k.RenewLock)
	case *raftlogv1.Mutation_ReleaseLock:
		return tx.releaseLock(k.ReleaseLock)
	case *raftlogv1.Mutation_ExpireLeases:
		return tx.expireLeases(k.ExpireLeases)
	}
	return refuse(raftlogv1.Code_CODE_INVALID, "no_kind", "the mutation has no kind")
}

func ok() *raftlogv1.Outcome { return &raftlogv1.Outcome{Code: raftlogv1.Code_CODE_OK} }

func granted(number uint64) *raftlogv1.Outcome {
	return &raftlogv1.Outcome{Code: raftlogv1.Code_CODE_OK, Number: number}
}

// stands answers a repetition: what was asked is already so.
func stands(number uint64) *raftlogv1.Outcome {
	return &raftlogv1.Outcome{Code: raftlogv1.Code_CODE_OK, Number: number, Repeated: true}
}

// refuse answers that nothing changed, and why: reason for programs, the sentence
// for people.
func refuse(code raftlogv1.Code, reason, format string, args ...any) *raftlogv1.Outcome {
	return &raftlogv1.Outcome{Code: code, Reason: reason, Detail: fmt.Sprintf(format, args...)}
}
