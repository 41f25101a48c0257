import Kernel

/// What tcp-listen does about the queue of connections that wait for accept().
extension TCPListen {
  /// A full queue alone says nothing about who is slow: it is looked at again.
  mutating func expect(_ seen: Observation) -> Decision {
    if pending[seen.port] == nil, pending.count < Self.mostPorts { pending[seen.port] = seen }
    return .leave(
      "port \(seen.port): \(seen.acceptQueue) connections wait for accept(), which is all that"
        + " its backlog allows; whether it catches up is seen in a moment")
  }

  /// How the queue that was full stands now.
  mutating func judge(_ seen: Observation) -> Decision {
    guard let full = pending[seen.port] else { return .leave("port \(seen.port) is not in need") }
    // Of several listeners on the port, another one was full.
    guard full.backlog == seen.backlog else { return .leave("not the listener that was full") }
    guard seen.time > full.time, seen.time - full.time >= times.look.nanoseconds / 2 else {
      return .leave("port \(seen.port): it is too early to tell")
    }
    if seen.process == 0, seen.inode != 0, owners[seen.inode] == nil { return .survey }
    pending[seen.port] = nil

    let elapsed = seen.elapsed(since: full.time)
    let taken = max(0, full.acceptQueue - seen.acceptQueue + seen.added - full.added)
    let drained = seen.acceptQueue <= seen.backlog / 2
    // Milliseconds that the last one in a full queue waits.
    let wait = taken == 0 ? Int64.max : seen.backlog * elapsed / taken
    guard drained || wait <= Self.patience else {
      return .hold(slow(seen, taken, elapsed), about: "slow \(seen.namespace)")
    }
    return raiseMaximum(seen, full)
  }

  private func slow(_ seen: Observation, _ taken: Int64, _ elapsed: Int64) -> String {
    let rate = taken * 1000 / elapsed
    return "port \(seen.port): \(owner(seen)) accepts too slowly: \(rate) connections a second,"
      + " while \(seen.acceptQueue) wait in a queue of \(seen.backlog); a longer queue would only"
      + " let them wait longer"
  }

  /// The process keeps up, but a burst is more than the queue holds.
  private func raiseMaximum(_ seen: Observation, _ full: Observation) -> Decision {
    let burst =
      "port \(seen.port): \(full.acceptQueue) connections waited for accept() and filled its"
      + " backlog of \(seen.backlog), though \(owner(seen)) keeps up"
    // What was in force when it listened, as far as that is known.
    let clamp = seen.clamp > 0 ? seen.clamp : originalMaximum ?? seen.somaxconn
    guard seen.backlog >= clamp else {
      return .hold(
        "\(burst); it asked listen() for no more: its own setting has to be raised",
        about: "small \(seen.namespace)")
    }
    guard seen.backlog >= seen.somaxconn else {
      return .hold(
        "\(burst); net.core.somaxconn is \(seen.somaxconn) by now: it has to call listen() again,"
          + " by a reload or restart", about: "listen \(seen.namespace)")
    }
    let growth = learningRate.growth(most: 8)
    let wanted = min(max(Int64(Double(seen.somaxconn) * growth), seen.somaxconn + 1), Self.most)
    guard wanted > seen.somaxconn else {
      return .hold(
        "\(burst); no backlog gets longer than \(Self.most)", about: "most \(seen.namespace)")
    }
    return .adjust([
      Adjustment(
        Self.backlogMaximum, from: seen.somaxconn, to: wanted,
        scenario: "need to increase maximum backlog of listeners",
        reason: "\(burst), clamped by net.core.somaxconn; for more it has to call listen() again,"
          + " by a reload or restart")
    ])
  }
}

/// What tcp-listen does about the queue of SYNs.
extension TCPListen {
  /// Connections and repeated SYN/ACKs of the port since its last event.
  private mutating func news(_ seen: Observation) -> (added: Int64, repeated: Int64, time: Int64) {
    let before = last[seen.port]
    if last.count >= Self.mostPorts, before == nil,
      let oldest = last.min(by: { $0.value.time < $1.value.time })
    {
      last[oldest.key] = nil
    }
    last[seen.port] = seen
    guard let before, seen.added >= before.added, seen.repeated >= before.repeated else {
      return (seen.added, seen.repeated, max(1, seen.since))
    }
    return (
      seen.added - before.added, seen.repeated - before.repeated, seen.elapsed(since: before.time)
    )
  }

  /// The queue is full, and connections come of it.
  mutating func synFull(_ seen: Observation) -> Decision {
    let (added, repeated, time) = news(seen)
    guard added > repeated else {
      return .leave(
        "port \(seen.port): \(repeated) SYN/ACKs had to be sent again, \(added) connections came")
    }
    syn.lastFull = seen.time
    guard seen.synCookies == 0 else {
      // Cookies go out instead, without the options of TCP that need memory.
      guard seen.backlog >= seen.somaxconn else {
        return .leave("port \(seen.port): SYN cookies stand in for its queue of \(seen.backlog)")
      }
      return expect(seen)
    }
    guard seen.synBacklog - seen.synBacklog / 4 <= seen.backlog else {
      return .hold(
        "port \(seen.port): \(seen.synQueue) SYNs fill its backlog of \(seen.backlog), which"
          + " bounds them too; \(owner(seen)) has to call listen() with more",
        about: "syn \(seen.namespace)")
    }
    let rate = Self.rate(added, in: time)
    if let step = syn.step, step.seen.port == seen.port, seen.synBacklog > step.seen.synBacklog,
      let decision = weigh(seen, rate, step)
    {
      return decision
    }
    if let since = syn.uselessSince, seen.time > since, seen.time - since < times.quiet.nanoseconds
    {
      return .leave("port \(seen.port): more room for SYNs brought no more connections")
    }
    syn.uselessSince = nil
    // A third more than the backlog is all that counts; the rest is memory.
    let useful = seen.backlog + seen.backlog / 3 + 2
    let ceiling = min(useful, Self.most, seen.freeMemory / 64 / Self.requestSize)
    let wanted = min(Int64(Double(seen.synBacklog) * learningRate.growth(most: 4)), ceiling)
    guard wanted > seen.synBacklog + seen.synBacklog / 8 else {
      return .leave("port \(seen.port): the memory or its own backlog allows no more")
    }
    syn.step = (seen, rate)
    return .adjust([
      Adjustment(
        Self.synBacklog, from: seen.synBacklog, to: wanted,
        scenario: "need to increase SYN backlog",
        reason: "port \(seen.port): \(seen.synQueue) SYNs leave no room for more, SYN cookies are"
          + " off, and \(added) connections came of them in \(Words.microseconds(time * 1000))")
    ])
  }

  /// Connections a second. What came in less than a second says nothing about
  /// the seconds to come.
  private static func rate(_ count: Int64, in milliseconds: Int64) -> Double {
    Double(count) * 1000 / Double(max(1000, milliseconds))
  }

  /// Whether the last step has brought connections; nil when it has.
  private mutating func weigh(
    _ seen: Observation, _ rate: Double, _ step: (seen: Observation, rate: Double)
  ) -> Decision? {
    let since = seen.elapsed(since: step.seen.time)
    guard since >= 100 else { return .leave("the last step is too young to tell") }
    let after = Self.rate(seen.added - step.seen.added, in: since)
    guard after < step.rate * 1.1 else { return nil }
    syn.uselessSince = seen.time
    guard let original = syn.original else { return .leave("the last step brought nothing") }
    return .adjust([
      Adjustment(
        Self.synBacklog, from: seen.synBacklog, to: original,
        scenario: "more room for SYNs brought nothing",
        reason: "port \(seen.port): \(Int64(after)) connections a second with it,"
          + " \(Int64(step.rate)) without")
    ])
  }

  /// The queue is full of SYNs that nothing comes of: cookies hold off such a
  /// flood and take no memory.
  mutating func unanswered(_ seen: Observation) -> Decision {
    guard seen.synCookies == 0 else { return .leave("SYN cookies are on") }
    let (added, repeated, _) = news(seen)
    guard repeated >= 16, repeated >= 4 * added else {
      // Too few to tell: they count together with those to come.
      last[seen.port]?.added -= added
      last[seen.port]?.repeated -= repeated
      return .leave(
        "port \(seen.port): \(repeated) SYN/ACKs had to be sent again, \(added) connections came")
    }
    let flood =
      "port \(seen.port): a flood of SYNs fills the queue with \(seen.synQueue) of them;"
      + " \(repeated) SYN/ACKs had to be sent again, while \(added) connections came"
    var adjustments = [
      Adjustment(
        Self.synCookies, from: 0, to: 1, scenario: "need to answer a flood with SYN cookies",
        reason: flood)
    ]
    if let original = syn.original {
      adjustments.append(
        Adjustment(
          Self.synBacklog, from: seen.synBacklog, to: original,
          scenario: "more room for SYNs only serves a flood", reason: flood))
    }
    return .adjust(adjustments)
  }
}
