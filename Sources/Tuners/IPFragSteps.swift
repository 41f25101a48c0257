import Kernel

/// How ip-frag judges what is refused, and whether a raise has helped.
extension IPFrag {
  public mutating func decide(_ seen: Observation) -> Decision {
    guard seen.limit > 0, seen.limit <= Int64(Int32.max) else {
      return .leave("fragments are not put together here")
    }
    guard seen.scenario == .refused || states[seen.family] != nil else {
      return .leave("nothing is refused")
    }
    var state =
      states[seen.family]
      ?? State(
        original: seen.limit, current: seen.limit, base: seen.counts, since: seen.time,
        lastRefusals: seen.counts.refusals - 1, penalty: times.penalty.nanoseconds)
    if !state.isRaised { state.original = seen.limit }
    defer { states[seen.family] = state }
    // Counted from the beginning again, since nothing was refused for long.
    if seen.counts.refusals < state.base.refusals {
      state.base = seen.counts
      state.lastRefusals = 0
    }
    // What was refused before a raise took effect is over.
    let isRefusing =
      seen.counts.refusals > state.lastRefusals && seen.held >= seen.limit / 2
    state.lastRefusals = seen.counts.refusals
    if let trial = state.trial, let decision = judge(trial, &state, seen, isRefusing) {
      return decision
    }
    return isRefusing ? grow(&state, seen) : settle(&state, seen)
  }

  // MARK: Growing

  private func grow(_ state: inout State, _ seen: Observation) -> Decision {
    state.needed = seen.time
    // What was refused long ago says nothing of what is refused now.
    if seen.elapsed(since: state.since) > 10 * times.judge.nanoseconds {
      state.base = seen.counts
      state.since = seen.time
      state.isOpen = true
    }
    let title =
      "\(Words.bytes(seen.held)) of \(Words.bytes(seen.limit)) are held by fragments of"
      + " \(seen.waiting) datagrams that are not complete"
    guard seen.time >= state.barredUntil else {
      state.isOpen = false
      return .leave("\(title); the last raise brought nothing")
    }
    let refused = seen.counts - state.base
    guard refused.areDatagrams else {
      guard seen.elapsed(since: state.since) >= times.judge.nanoseconds else {
        return .leave("\(title); what is refused is looked at")
      }
      state.isOpen = false
      return .hold(
        "\(title), and there is no more room for them: what is refused makes no whole datagrams"
          + " (\(refused.first) first fragments, \(refused.last) last ones;"
          + " a flood looks like this)",
        about: "flood \(seen.family)")
    }
    let ceiling = min(Self.most, seen.freeMemory / 64)
    let wanted = min(Int64(Double(seen.limit) * learningRate.growth(most: 4)), ceiling) & ~4095
    guard wanted > seen.limit + seen.limit / 8 else {
      state.isOpen = false
      return .hold(
        "\(title), and there is no more room for them: \(Words.bytes(ceiling)) is the most",
        about: "bound \(seen.family)")
    }
    state.trial = Trial(
      from: seen.limit, since: seen.time, before: seen.counts, waiting: seen.waiting)
    state.isOpen = false
    return .adjust([
      adjust(
        seen, to: wanted, "need to increase memory of fragments",
        "\(title); \(refused.refusals) more were refused, \(Words.bytes(refused.bytes)) of"
          + " \(refused.last) datagrams")
    ])
  }

  /// Whether a raise has helped; nil once it has, or when nothing speaks yet.
  private func judge(
    _ trial: Trial, _ state: inout State, _ seen: Observation, _ isRefusing: Bool
  ) -> Decision? {
    let gained = seen.counts.completed - trial.before.completed
    let left = max(0, seen.waiting - trial.waiting)
    // One in three of those that found room was put together.
    if gained > 0, gained * 2 >= left {
      guard isRefusing || seen.elapsed(since: trial.since) >= times.judge.nanoseconds else {
        return .leave("\(gained) datagrams were put together since the raise")
      }
      state.trial = nil
      state.needed = seen.time
      // Judged anew by what is refused from here on.
      state.base = trial.before
      state.since = trial.since
      state.isOpen = isRefusing
      state.penalty = times.penalty.nanoseconds
      return nil
    }
    guard seen.elapsed(since: trial.since) >= times.judge.nanoseconds else {
      return .leave("what the raise brings is not clear yet")
    }
    // Until the room is used up again, nothing speaks against it.
    guard isRefusing || gained > 0 || left > 0, seen.held >= seen.limit / 2 else {
      state.trial?.isIdle = true
      return nil
    }
    state.trial = nil
    state.isOpen = false
    state.barredUntil = seen.time + state.penalty
    state.penalty = min(state.penalty * 2, Self.mostPenalty)
    return .adjust([
      adjust(
        seen, to: trial.from, "memory of fragments was raised for nothing",
        "with more room \(gained) datagrams were put together, and \(left) more wait for the rest"
          + " of them")
    ])
  }

  private func adjust(
    _ seen: Observation, to wanted: Int64, _ scenario: String, _ reason: String
  ) -> Adjustment {
    Adjustment(
      Self.limit(of: seen.family), from: seen.limit, to: wanted, scenario: scenario, reason: reason)
  }

  // MARK: Going back

  private func settle(_ state: inout State, _ seen: Observation) -> Decision {
    if seen.elapsed(since: state.since) >= times.judge.nanoseconds { state.isOpen = false }
    guard state.isRaised else { return .leave("nothing is refused") }
    guard seen.elapsed(since: state.needed) >= times.quiet.nanoseconds else {
      return .leave("nothing is refused, but not for long enough")
    }
    guard seen.held <= state.original / 2 else {
      return .leave("fragments hold \(Words.bytes(seen.held))")
    }
    return .adjust([
      adjust(
        seen, to: state.original, "memory of fragments larger than needed",
        "no fragment was refused for a while, and \(Words.bytes(seen.held)) are held")
    ])
  }
}
