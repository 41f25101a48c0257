import Foundation
import TestSupport

private let allowed = "net.ipv4.tcp_allowed_congestion_control"
private let algorithm = "net.ipv4.tcp_congestion_control"

/// A path, and what is right or wrong with it.
private struct Case {
  let name: String
  /// One way, in milliseconds.
  let delay: Double
  let options: [String]
  var marks = false
  /// What netem(8) does in place of the emulator, where the kernel has it.
  var netem: String?
  /// Connections after those that it learns from, and paths at a time; more where
  /// single ones differ by a third, as each has another luck with its losses.
  var knowing = 8
  var lanes = 1
  /// The kernel's default is as good as any: it must not get worse.
  var isHealthy = false

  static let all = [
    Case(
      name: "100 ms, 2 % loss", delay: 50, options: rate(100, queue: 2_500_000) + loss(2),
      knowing: 32, lanes: 4),
    Case(name: "20 ms, 0.1 % loss", delay: 10, options: rate(100, queue: 500_000) + loss(0.1)),
    Case(name: "20 ms, shallow queue", delay: 10, options: rate(50, queue: 30_000)),
    Case(
      name: "20 ms, deep queue", delay: 10, options: rate(50, queue: 1_000_000), isHealthy: true),
    Case(name: "LAN", delay: 0.1, options: rate(200, queue: 500_000), isHealthy: true),
    Case(
      name: "20 ms, marks", delay: 10,
      options: rate(50, queue: 1_000_000) + ["--ecn-threshold-bytes", "60000"], marks: true),
    // What the C program of the same name is measured by.
    Case(name: "netem, 10 % loss", delay: 0, options: [], netem: "loss 10%"),
  ]

  private static func rate(_ megabits: Int, queue: Int) -> [String] {
    ["--rate-mbit", "\(megabits)", "--queue-bytes", "\(queue)"]
  }
  private static func loss(_ percent: Double) -> [String] { ["--loss-percent", "\(percent)"] }

  func path(_ lane: Int = 0) async throws -> Path {
    let path =
      if let netem { try await Path(netem: netem) } else {
        try await Path(
          delay: delay, options: options, left: TestNamespace("left\(lane)"),
          right: TestNamespace("right\(lane)"))
      }
    try await path.setLargeBuffers()
    try await path.left.set(algorithm, "cubic")
    for end in [path.left, path.right] where marks { try await end.set("net.ipv4.tcp_ecn", "1") }
    return path
  }
}

private let steady = "steady path"
private let fairness = "two flows"

/// Connections of 2 s: ten for what it learns, those after them for what it knows.
private let learning = 10

/// How far the algorithm that a path gets is from the best one for that path,
/// found by running each in turn; cubic is the default.
func measureCongestion(only name: String) async throws -> [Row] {
  let saved = try await SavedSysctls(allowed)
  do {
    // A namespace may have a default only if it is allowed.
    let before = try await TestNamespace.initial.sysctl(allowed)
    if !before.split(separator: " ").contains("cubic") {
      try await TestNamespace.initial.set(allowed, before + " cubic")
    }
    var rows: [Row] = []
    let hasNetem = await Path.hasNetem()
    for one in Case.all where name.isEmpty || one.name.contains(name) {
      guard one.netem == nil || hasNetem else {
        FileHandle.standardError.write(Data("no netem here: not \(one.name)\n".utf8))
        continue
      }
      FileHandle.standardError.write(Data("measuring \(one.name) ...\n".utf8))
      rows += try await measure(one)
    }
    if name.isEmpty || steady.contains(name) { rows += try await measureSteadyPath() }
    if name.isEmpty || fairness.contains(name) { rows += try await measureFairness() }
    await saved.restore()
    return rows
  } catch {
    await saved.restore()
    throw error
  }
}

/// Algorithms to compare with: those of this kernel that the case has a use for.
private func fixedAlgorithms(_ one: Case, in path: Path) async throws -> [String] {
  let available = try await path.left.sysctl("net.ipv4.tcp_available_congestion_control")
    .split(separator: " ").map(String.init)
  return ["cubic", "bbr", "htcp", "dctcp"].filter {
    available.contains($0) && ($0 != "dctcp" || one.marks)
  }
}

/// What the connections over one path or several have reached, in Mbit/s.
private struct Rates {
  var learning: [Double] = []
  var knowing: [Double] = []
  /// By fixed algorithm.
  var fixed: [String: [Double]] = [:]
  /// Of the choice, after it has learned.
  var switches = 0

  mutating func add(_ other: Rates) {
    learning += other.learning
    knowing += other.knowing
    fixed.merge(other.fixed, uniquingKeysWith: +)
    switches += other.switches
  }
}

private func measure(_ one: Case, over path: Path) async throws -> Rates {
  let server = try await Iperf.server(in: path.right)
  let fixed = try await fixedAlgorithms(one, in: path)
  var rates = Rates()
  var switches = 0
  for number in 0..<(learning + one.knowing) {
    // In turns, so that a drift of the machine hits all, and from either end: the
    // kernel remembers of each connection what the next one begins with. What an
    // application has chosen is left alone.
    let order = [nil] + fixed.map(Optional.some)
    for name in number.isMultiple(of: 2) ? order : order.reversed() {
      if let name {
        rates.fixed[name, default: []].append(try await run(path, options: ["-C", name]))
      } else {
        let rate = try await run(path, options: [])
        if number < learning { rates.learning.append(rate) } else { rates.knowing.append(rate) }
      }
    }
    if number == learning - 1 { switches = try await switchesSoFar(path) }
  }
  rates.switches = try await switchesSoFar(path) - switches
  server.signal(SIGTERM)
  return rates
}

private func measure(_ one: Case) async throws -> [Row] {
  var paths: [Path] = []
  for lane in 0..<one.lanes { paths.append(try await one.path(lane)) }
  // After the paths: setting their default while it runs would disable the tuner.
  let daemon = try await Daemon("--allow", "tcp-conn", "--rollback")
  let rates = try await withThrowingTaskGroup(of: Rates.self) { group in
    for path in paths { group.addTask { try await measure(one, over: path) } }
    return try await group.reduce(into: Rates()) { $0.add($1) }
  }
  try await daemon.stop()
  for path in paths { await path.close() }

  let means = rates.fixed.mapValues(mean)
  let best = means.max { $0.value < $1.value }
  let cubic = means["cubic"] ?? 0
  var rows = [
    Row(
      what: "\(one.name): after \(learning) connections, ours / best fixed (\(best?.key ?? ""))",
      ours: mean(rates.knowing), reference: best?.value, unit: "Mbit/s",
      goal: .atLeast(0.95)),
    Row(
      what: "\(one.name): the first \(learning) connections, ours / the default",
      ours: mean(rates.learning), reference: cubic, unit: "Mbit/s",
      goal: one.isHealthy ? .atLeast(0.98) : .none),
    Row(
      what: "\(one.name): switches after \(learning) connections", ours: Double(rates.switches),
      goal: .atMost(0)),
  ]
  for (name, rate) in means.sorted(by: { $0.key < $1.key }) {
    rows.append(Row(what: "\(one.name): \(name)", ours: rate, unit: "Mbit/s", goal: .none))
  }
  return rows
}

/// How often the choice for a path changes that stays as it is: connections of
/// 2 s for three minutes, after ten to learn from.
private func measureSteadyPath() async throws -> [Row] {
  let one = Case(
    name: steady, delay: 10,
    options: ["--rate-mbit", "100", "--queue-bytes", "500000", "--loss-percent", "1"])
  let path = try await one.path()
  let daemon = try await Daemon("--allow", "tcp-conn", "--rollback")
  let server = try await Iperf.server(in: path.right)
  for _ in 0..<learning { _ = try await run(path, options: []) }
  let before = try await switchesSoFar(path)
  let trialsBefore = daemon.lines.count { $0.contains(": trying ") }
  let end = ContinuousClock.now + .seconds(180)
  while ContinuousClock.now < end { _ = try await run(path, options: []) }
  let switches = try await switchesSoFar(path) - before
  let trials = daemon.lines.count { $0.contains(": trying ") } - trialsBefore
  try await daemon.stop()
  server.signal(SIGTERM)
  await path.close()
  return [
    Row(what: "\(steady), 3 min: switches", ours: Double(switches), goal: .atMost(0)),
    Row(what: "\(steady), 3 min: trials", ours: Double(trials), goal: .atMost(1)),
  ]
}

/// Two connections at a time over one bottleneck: what the slower one gets of
/// an equal share, against two of the default.
private func measureFairness() async throws -> [Row] {
  let one = Case(
    name: fairness, delay: 10, options: ["--rate-mbit", "50", "--queue-bytes", "250000"])
  let path = try await one.path()
  let daemon = try await Daemon("--allow", "tcp-conn", "--rollback")
  let servers = [
    try await Iperf.server(in: path.right, port: 5201),
    try await Iperf.server(in: path.right, port: 5202),
  ]
  func share(_ options: [String]) async throws -> Double {
    async let first = run(path, seconds: 5, options: options, port: 5201)
    async let second = run(path, seconds: 5, options: options, port: 5202)
    let rates = [try await first, try await second]
    return (rates.min() ?? 0) / max(0.001, rates.reduce(0, +) / 2)
  }
  var ours: [Double] = []
  var theirs: [Double] = []
  for _ in 0..<6 {
    ours.append(try await share([]))
    theirs.append(try await share(["-C", "cubic"]))
  }
  try await daemon.stop()
  for server in servers { server.signal(SIGTERM) }
  await path.close()
  return [
    Row(
      what: "\(fairness): the slower one's part of an equal share, ours / the default",
      ours: mean(ours), reference: mean(theirs), goal: .atLeast(0.95))
  ]
}

/// Mbit/s. After a run over a lossy path the server may be busy with its end.
private func run(
  _ path: Path, seconds: Double = 2, options: [String], port: Int = 5201
) async throws -> Double {
  for _ in 0..<20 {
    if let result = try? await Iperf.run(
      from: path.left, to: Path.rightAddress.v4, seconds: seconds, port: port, options: options)
    {
      return result.rate
    }
    try await Task.sleep(for: .milliseconds(300))
  }
  throw Command.Failure("no connection over the path")
}

private func switchesSoFar(_ path: Path) async throws -> Int {
  try await ConnectionPath.all(from: path.left)
    .filter { $0.path == Path.rightAddress.v4 }.map(\.switches).reduce(0, +)
}
