import Kernel

/// How udp-buffer judges a socket and sizes what it needs.
extension UDPBuffer {
  public mutating func decide(_ seen: Observation) -> Decision {
    switch seen.scenario {
    case .full, .memory: return meet(seen)
    case .look: return look(seen)
    case .report: return settle(seen)
    }
  }

  // MARK: Judging

  /// A socket drops: what it needs shows when its queue has, or has not, run
  /// empty after that.
  private mutating func meet(_ seen: Observation) -> Decision {
    forget(before: seen)
    for (tunable, entry) in raised where entry.isRaised && concerns(tunable, seen) {
      raised[tunable]?.needed = seen.time
    }
    var candidate =
      candidates[seen.socket]
      ?? Candidate(since: seen.time, lastSeen: seen.time, isShort: seen.scenario == .memory)
    candidate.lastSeen = seen.time
    if let (verdict, time) = candidate.verdict {
      if seen.elapsed(since: time) < Self.memoryOfVerdicts, !isNew(seen, after: verdict) {
        candidates[seen.socket] = candidate
        return words(verdict, seen)
      }
      candidate = Candidate(
        since: seen.time, lastSeen: seen.time, isShort: seen.scenario == .memory)
    }
    candidates[seen.socket] = candidate
    let what = candidate.isShort ? "UDP's memory is" : "\(Words.bytes(seen.limit)) are"
    return .leave("port \(seen.port) drops: \(what) full")
  }

  /// Another socket has the place of the one that the verdict was about.
  private func isNew(_ seen: Observation, after verdict: Verdict) -> Bool {
    let isShort = seen.scenario == .memory
    let current = raised[isShort ? Self.memory : tunable(of: seen)]?.current.maximum
    return switch verdict {
    case .done, .beyondReach: current == (isShort ? seen.memoryLimits.last : size(of: seen))
    case .broadcast, .slow, .bounded: false
    }
  }

  private mutating func look(_ seen: Observation) -> Decision {
    guard var candidate = candidates[seen.socket], candidate.verdict == nil else {
      return .leave("port \(seen.port): judged already")
    }
    candidate.looks += 1
    var verdict: Verdict?
    var decision = Decision.leave(
      "port \(seen.port): \(Words.bytes(seen.queued)) are still in its queue")
    if seen.broadcast * 2 > seen.drops {
      verdict = .broadcast
    } else if seen.queued <= seen.limit / 4 {
      decision = candidate.isShort ? growMemory(seen) : growBuffer(seen)
      if case .adjust = decision { verdict = .done } else { verdict = .bounded }
    } else if seen.elapsed(since: candidate.since) >= times.patience.nanoseconds {
      verdict = .slow
    }
    if let verdict {
      candidate.verdict = (verdict, seen.time)
      if verdict == .slow || verdict == .broadcast { decision = words(verdict, seen) }
    }
    candidates[seen.socket] = candidate
    adjusting = (seen.socket, seen.time)
    return decision
  }

  /// Why nothing changes for this socket.
  private mutating func words(_ verdict: Verdict, _ seen: Observation) -> Decision {
    let port = "port \(seen.port) (\(seen.namespace))"
    let about = "\(verdict) \(port)"
    switch verdict {
    case .broadcast:
      return say("\(port) drops broadcasts: a storm, for which no buffer is made", about, seen)
    case .slow:
      return say(
        "\(port) drops since its program does not read, or reads too slowly: its queue of"
          + " \(Words.bytes(seen.limit)) does not run empty, and a larger one would fill as well",
        about, seen)
    case .beyondReach, .done:
      guard seen.scenario != .memory else { return .leave("UDP has had more memory just now") }
      guard !seen.isLocked || seen.limit / 2 < raised[Self.largest]?.current.maximum ?? 0 else {
        return .leave(
          "port \(seen.port) has chosen its buffer of \(Words.bytes(seen.limit)) itself")
      }
      return say(
        "\(port) still drops: its socket keeps \(Words.bytes(seen.limit)) until its program"
          + " opens it anew",
        about, seen)
    case .bounded: return .leave("port \(seen.port): there may be no more")
    }
  }

  /// For the log, but of ten sockets in a minute at most: anybody can make more.
  private mutating func say(_ text: String, _ about: String, _ seen: Observation) -> Decision {
    if seen.elapsed(since: said.since) >= 60_000_000_000 { said = (seen.time, []) }
    guard said.about.contains(about) || said.about.count < 10 else { return .leave(text) }
    said.about.insert(about)
    return .hold(text, about: about)
  }

  // MARK: Growing

  private func tunable(of seen: Observation) -> Tunable {
    seen.isLocked ? Self.largest : Self.initial
  }

  /// The socket's buffer in terms of its tunable: SO_RCVBUF gives the double.
  private func size(of seen: Observation) -> Int64 { seen.isLocked ? seen.limit / 2 : seen.limit }

  private func concerns(_ tunable: Tunable, _ seen: Observation) -> Bool {
    tunable == (seen.scenario == .memory ? Self.memory : self.tunable(of: seen))
  }

  private func growBuffer(_ seen: Observation) -> Decision {
    let tunable = tunable(of: seen)
    let size = size(of: seen)
    guard size > 0, seen.limit <= Int64(Int32.max), seen.memoryLimits.count == 3 else {
      return .leave("no limit is known")
    }
    guard seen.held < seen.memoryLimits[1] else {
      return .leave("UDP holds \(seen.held) pages, and presses from \(seen.memoryLimits[1]) on")
    }
    // Room for the burst, and half as much again.
    let most = Int64(Int32.max)
    let lost = seen.bytes > 0 ? min(seen.bytes, most) : min(max(seen.drops, 0), 1 << 20) * 2048
    let need = (seen.limit + lost) * 3 / 2 / (seen.isLocked ? 2 : 1)
    let step = Int64(Double(size) * learningRate.growth(most: 8))
    let ceiling = ceiling(tunable, seen)
    let wanted = min(max(need, size * 5 / 4), step, ceiling) & ~4095
    guard wanted > size + size / 8 else {
      return .hold(
        "port \(seen.port) (\(seen.namespace)) drops bursts, and \(tunable.name) is not raised:"
          + " \(Words.bytes(ceiling)) is as much as there may be",
        about: tunable.name)
    }
    return .adjust([
      Adjustment(
        tunable, from: size, to: wanted, scenario: "need to increase UDP receive buffer",
        reason: reason(seen))
    ])
  }

  /// Bytes: the most that one socket may get.
  private func ceiling(_ tunable: Tunable, _ seen: Observation) -> Int64 {
    let shared = seen.memoryLimits[1].multipliedReportingOverflow(by: Memory.pageSize)
    let total = shared.overflow ? Int64.max : shared.partialValue
    return tunable == Self.initial
      ? min(Self.mostInitial, total / 16, seen.freeMemory / 64)
      : min(Self.mostLargest, total / 8, seen.freeMemory / 32)
  }

  private func reason(_ seen: Observation) -> String {
    let size = "\(seen.drops) datagrams of a burst found no room in \(Words.bytes(seen.limit))"
    let who = "port \(seen.port) (\(seen.namespace))"
    return seen.isLocked
      ? "\(size) of \(who), which its program keeps empty and for which it could not ask for more;"
        + " it has to ask again"
      : "\(size) of \(who), which its program keeps empty; sockets that are opened from now on have"
        + " more, that one has to be opened anew"
  }

  /// The memory of all of UDP was short, of a socket that is read.
  private func growMemory(_ seen: Observation) -> Decision {
    let limits = seen.memoryLimits
    guard limits.count == 3, limits.allSatisfy({ $0 > 0 && $0 < Int64(Int32.max) }) else {
      return .leave("no limit is known")
    }
    let first = raised[Self.memory]?.original.numbers.last ?? limits[2]
    let room = seen.held + seen.freeMemory / 8 / Memory.pageSize
    let step = Int64(Double(limits[2]) * learningRate.growth(most: 4))
    let wanted = min(step, first * Self.mostMemory, room)
    guard wanted > limits[2] + limits[2] / 8 else {
      let down = back { $0 != Self.memory }
      guard down.isEmpty else { return .adjust(down) }
      return .hold(
        "UDP holds \(seen.held) of \(limits[2]) pages, and \(Self.memory.name) is not raised:"
          + " \(min(room, first * Self.mostMemory)) is the most, with"
          + " \(Words.bytes(seen.freeMemory)) free",
        about: Self.memory.name)
    }
    func scaled(_ pages: Int64) -> Int64 { max(pages, pages * wanted / limits[2]) }
    return .adjust([
      Adjustment(
        Self.memory,
        from: .whole(.triple(minimum: limits[0], initial: limits[1], maximum: limits[2])),
        to: .whole(
          .triple(minimum: scaled(limits[0]), initial: scaled(limits[1]), maximum: wanted)),
        scenario: "need to increase memory of UDP",
        reason: "\(seen.drops) datagrams to port \(seen.port) (\(seen.namespace)), whose program"
          + " reads them, found no memory: UDP may hold \(limits[2]) pages")
    ])
  }

  // MARK: Going back

  private mutating func settle(_ seen: Observation) -> Decision {
    // A socket that is not reported any more has gone, or has stopped to drop.
    let gone = times.patience.nanoseconds * 3
    for (socket, candidate) in candidates
    where candidate.verdict == nil && seen.elapsed(since: candidate.lastSeen) > gone {
      candidates[socket] = nil
    }
    adjusting = (0, seen.time)
    let due = back { tunable in
      guard let entry = raised[tunable], seen.elapsed(since: entry.needed) >= entry.hold
      else { return false }
      let before = entry.original.numbers.last ?? 0
      return tunable != Self.memory || seen.held < before / 2
    }
    guard !due.isEmpty else { return .leave("nothing is to go back") }
    for adjustment in due {
      // Had someone else changed it, this would not be tried for ever.
      raised[adjustment.tunable]?.needed = seen.time
    }
    return .adjust(due)
  }

  private func back(_ isDue: (Tunable) -> Bool) -> [Adjustment] {
    raised.filter { $0.value.isRaised && isDue($0.key) }
      .sorted { $0.key.name < $1.key.name }
      .map { tunable, entry in
        Adjustment(
          tunable, from: .whole(entry.current), to: .whole(entry.original),
          scenario: "UDP buffers larger than needed",
          reason: "no drop has called for more for a while")
      }
  }

  /// Makes room for one more candidate.
  private mutating func forget(before seen: Observation) {
    guard candidates.count >= Self.mostCandidates, candidates[seen.socket] == nil,
      let oldest = candidates.min(by: { $0.value.lastSeen < $1.value.lastSeen })
    else { return }
    candidates[oldest.key] = nil
  }
}
