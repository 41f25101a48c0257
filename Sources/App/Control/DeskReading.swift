import Kernel
import State
import Tuners

/// Answers that are put together piece by piece.
extension Desk {
  /// Pages end between namespaces; `after` is the inode number of the last one.
  func tunables(_ request: Request) async throws -> Reply.Tunables {
    if let place = try await namespace(request) {
      return Reply.Tunables(tunables: await facts.states(in: place), next: nil)
    }
    let after = UInt32(request["after"] ?? "")
    var rows: [Reply.TunableState] = []
    if after == nil { rows = await facts.states(in: facts.supervisor.own()) }
    let places = await facts.setElsewhere().sorted { $0.key.inode < $1.key.inode }
    for (id, tunables) in places where id.inode > after ?? 0 {
      for tunable in tunables.sorted(by: { $0.name < $1.name }) {
        if let state = await facts.state(of: tunable, in: id) { rows.append(state) }
      }
      if rows.count >= Limits.rows { return Reply.Tunables(tunables: rows, next: "\(id.inode)") }
    }
    return Reply.Tunables(tunables: rows, next: nil)
  }

  func history(_ request: Request) async throws -> Reply.History {
    var filter = HistoryFilter()
    filter.tuner = request["tuner"]
    filter.tunable = request["tunable"]
    if let text = request["since"] {
      guard let since = Moment(since: text) else {
        throw Problem(.badRequest, "since takes 15m, 2h, 3d or a date such as 2026-11-22T21:44Z")
      }
      filter.since = since.milliseconds * 1000
    }
    if let text = request["before"] {
      guard let before = Int64(text) else { throw Problem(.badRequest, "before takes a number") }
      filter.before = before
    }
    if let text = request["netns"] {
      // Also one that is gone, by what it was.
      filter.namespace =
        text == "init" ? .own : UInt32(text).map { .inode($0) } ?? .named(text)
    }
    filter.limit = 100
    if let text = request["limit"] {
      guard let limit = Int(text), (1...Limits.rows).contains(limit) else {
        throw Problem(.badRequest, "limit takes 1 to \(Limits.rows)")
      }
      filter.limit = limit
    }
    let records = await facts.history(filter)
    return Reply.History(
      records: records.map { facts.record(of: $0) },
      next: records.count < filter.limit ? nil : records.last.map { "\($0.id)" })
  }

  func explain(_ request: Request) async throws -> Reply.Explanation {
    guard let name = request["tunable"] else {
      throw Problem(.badRequest, "which tunable? explain?tunable=net.ipv4.tcp_rmem")
    }
    let place = try await namespace(request)
    let tunables = try await facts.tunables(named: name)
    var places: [Reply.Explanation.Place] = []
    for tunable in tunables {
      if let place {
        places.append(await facts.explain(tunable, in: place))
        continue
      }
      if !tunable.name.contains("*") {
        places.append(await facts.explain(tunable, in: facts.supervisor.own()))
      }
      for (id, set) in await facts.setElsewhere().sorted(by: { $0.key.inode < $1.key.inode })
      where places.count < Self.mostPlaces {
        guard let namespace = await facts.supervisor.known(id) else { continue }
        for one in set where one == tunable || one.pattern == tunable {
          places.append(await facts.explain(one, in: namespace))
        }
      }
    }
    return Reply.Explanation(tunable: name, places: places)
  }

  /// Namespaces that a tunable is explained in when none was asked for.
  private static let mostPlaces = 10

  func verify() async -> Reply.Verification {
    let holdings = await facts.holdings()
    var differences: [Reply.Difference] = []
    for holding in holdings {
      guard let difference = await facts.difference(holding) else { continue }
      if differences.count < Limits.rows { differences.append(difference) }
    }
    return Reply.Verification(
      checked: holdings.count, differences: differences, holds: differences.isEmpty)
  }

  func simulate() async -> Reply.Simulation {
    var undone: [Reply.Step] = []
    for holding in await facts.holdings().prefix(Limits.rows) {
      undone.append(
        Reply.Step(
          tunable: holding.tunable.name, namespace: await facts.title(holding.namespace),
          from: "\(holding.written)", to: "\(holding.original)",
          why: "as it was before bpftune"))
    }
    let applied = await facts.standingAdvice().map { record in
      let seen = facts.record(of: record)
      return Reply.Step(
        tunable: seen.tunable, namespace: seen.namespace, from: seen.old, to: seen.new,
        why: [seen.reason, seen.outcome].filter { !$0.isEmpty }.joined(separator: "; "))
    }
    return Reply.Simulation(undone: undone, applied: applied)
  }

  func recommend() async -> Reply.Recommendations {
    var findings: [Reply.Finding] = []
    for holding in await facts.holdings().prefix(Limits.rows) {
      findings.append(
        Reply.Finding(
          tunable: holding.tunable.name, value: "\(holding.written)",
          original: "\(holding.original)", reason: "\(holding.scenario): \(holding.reason)",
          time: Moment(milliseconds: holding.since / 1000).iso, kind: "applied",
          namespace: await facts.title(holding.namespace)))
    }
    for record in await facts.standingAdvice() {
      let seen = facts.record(of: record)
      findings.append(
        Reply.Finding(
          tunable: seen.tunable, value: seen.new, original: seen.old,
          reason: "\(seen.scenario): \(seen.reason)", time: seen.time, kind: "advised",
          namespace: seen.namespace))
    }
    return Reply.Recommendations(
      host: Host.name, kernel: KernelVersion.release, time: Moment.now.iso, findings: findings)
  }
}
