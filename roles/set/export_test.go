package set

import "time"

// What follows lets a test judge without one rule, to see that it is this rule that refuses.

func namesOf[F any, C ~int](rules []rule[F, C]) (out []string) {
	for _, r := range rules {
		out = append(out, r.name)
	}
	return out
}

func judgeWithout[F any, C ~int](rules []rule[F, C], name string, f F) C {
	var rest []rule[F, C]
	for _, r := range rules {
		if r.name != name {
			rest = append(rest, r)
		}
	}
	return firstBroken(rest, f)
}

// RuleNames lists the rules of each request that a gateway judges.
func RuleNames() map[string][]string {
	return map[string][]string{
		"AuthReq": namesOf(authRules), "CapReq": namesOf(capRules), "AuthRevReq": namesOf(authRevRules),
		"adjustment": namesOf(adjustmentRules), "BatchAdminReq": namesOf(batchRules),
	}
}

func (e *Endpoint) JudgeAuth(now time.Time, o *OpenedAuthReq, without string) AuthCode {
	return judgeWithout(authRules, without, e.authFacts(now, o))
}

func (o OpenedCapItem) JudgeWithout(name string) CapCode {
	return judgeWithout(capRules, name, o.facts)
}

func (o OpenedAdjusted) JudgeWithout(name string) CapRevOrCredCode {
	return judgeWithout(adjustmentRules, name, o.facts)
}

func (o *OpenedAuthRevReq) JudgeWithout(name string) AuthRevCode {
	return judgeWithout(authRevRules, name, o)
}

func (o *OpenedBatchAdminReq) JudgeWithout(name string, b *Batch) BAStatus {
	return judgeWithout(batchRules, name, &batchFacts{&o.Data, b})
}
