import Glibc
import Kernel
import State
import Tuners

/// What the daemon knows, in the words of the control socket. On the kernel loop,
/// since what it asks lives there: each answer is short, and what is long is
/// asked for piece by piece.
actor Facts {
  let around: NetworkNamespace.Surroundings
  let supervisor: Supervisor
  let hooks: Hooks
  let modules: Modules
  let pump: EventPump
  let options: Options
  private let cgroup: String
  let start = Moment.now
  private let startClock = ContinuousClock.now

  nonisolated var unownedExecutor: UnownedSerialExecutor {
    around.loop.asUnownedSerialExecutor()
  }

  init(
    around: NetworkNamespace.Surroundings, supervisor: Supervisor, hooks: Hooks,
    modules: Modules, pump: EventPump, options: Options, cgroup: String
  ) {
    self.around = around
    self.supervisor = supervisor
    self.hooks = hooks
    self.modules = modules
    self.pump = pump
    self.options = options
    self.cgroup = cgroup
  }

  // MARK: What runs

  /// A tuner, built in or from outside.
  struct Running: Sendable {
    let description: TunerDescription
    /// Of its events; nil where it is not loaded.
    let source: UInt16?
    /// Why one from outside does not run.
    var trouble: String? = nil
  }

  func running() async -> [Running] {
    options.chosenTuners.enumerated().map {
      Running(description: $1.description, source: Hooks.Source.tuner($0))
    }
      + (await modules.all()).map {
        Running(description: $0.description, source: $0.source, trouble: $0.trouble)
      }
  }

  /// Every signal, with the hook that it got.
  func lines() async -> [Hooks.Line] { hooks.lines + (await modules.all()).flatMap(\.lines) }

  // MARK: Status

  func status() async -> Reply.Status {
    var filter = HistoryFilter()
    filter.limit = 10
    filter.kinds = [.change, .advice, .administrator, .rollback, .withdrawal]
    let recent = await around.journal.history(filter)
    let losses = pump.losses
    let memory = Memory.own()
    let lines = await lines()
    return Reply.Status(
      version: Bpftune.version, pid: getpid(), started: start.iso,
      uptimeSeconds: startClock.duration(to: .now).components.seconds,
      mode: options.dryRun ? "dry-run" : "tuning",
      holdOut: options.holdOut.share, kernel: KernelVersion.release, cgroup: cgroup,
      namespaces: await supervisor.count,
      hooks: .init(
        signals: lines.count, degraded: lines.filter(\.isDegraded).count,
        missing: lines.filter(\.isMissing).count),
      signals: lines.map { Reply.Signal($0) }, tuners: await tuners(),
      events: .init(
        received: pump.received, folded: pump.counts.values.reduce(0) { $0 + $1.folded },
        lostRingFull: losses.ringFull, lostStreamFull: losses.streamFull,
        malformed: losses.malformed),
      memory: .init(anonymousBytes: memory.anonymous, residentBytes: memory.resident),
      state: await storage(), recent: recent.reversed().map { record(of: $0) })
  }

  private func storage() async -> String {
    switch await around.journal.storage {
    case .file(let path): path
    case .memory(let why): "in memory only: \(why)"
    }
  }

  // MARK: Tuners

  /// How many namespaces are named in which a tuner is disabled.
  private static let mostNamed = 20

  func tuners() async -> [Reply.Tuner] {
    let namespaces = await supervisor.all()
    var disabled: [String: [(NetworkNamespace, String)]] = [:]
    for namespace in namespaces {
      for (tuner, write) in await namespace.administratorWrites() {
        disabled[tuner, default: []].append((namespace, write.description))
      }
      for tuner in await namespace.tunersTurnedOff() {
        disabled[tuner, default: []].append((namespace, "turned off by bpftune disable"))
      }
    }
    let counters = around.counters.all
    let effects = await around.journal.effects
    var replies: [Reply.Tuner] = []
    for running in await running() {
      let tuner = running.description
      let places = disabled[tuner.name] ?? []
      var named: [Reply.Tuner.Disabled] = []
      for (namespace, why) in places.prefix(Self.mostNamed) {
        named.append(.init(namespace: await title(namespace), why: why))
      }
      let count = running.source.flatMap { pump.counts[$0] } ?? .init()
      let done = counters[tuner.name]
      let areDisabled = Set(places.map(\.0.id)).count
      replies.append(
        Reply.Tuner(
          name: tuner.name,
          state: running.trouble != nil
            ? "disabled"
            : areDisabled == 0
              ? "enabled" : areDisabled >= namespaces.count ? "disabled" : "partly",
          trouble: running.trouble, disabled: named, disabledCount: places.count,
          tunables: tuner.tunables.map(\.name),
          risks: tuner.risks.map(\.name), events: count.events, folded: count.folded,
          changes: done?.changes.values.reduce(0, +) ?? 0,
          advice: done?.advice.values.reduce(0, +) ?? 0,
          refusals: done?.refusals.values.reduce(0, +) ?? 0,
          kept: effects[tuner.name]?.kept ?? 0, worse: effects[tuner.name]?.takenBack ?? 0,
          unclear: effects[tuner.name]?.unclear ?? 0,
          gain: effects[tuner.name].flatMap { Effects.median($0.tuned) },
          gainHeldOut: effects[tuner.name].flatMap { Effects.median($0.heldOut) }))
    }
    return replies
  }

  // MARK: Namespaces

  func title(_ namespace: NetworkNamespace) async -> Reply.Namespace {
    Reply.Namespace(
      inode: namespace.id.inode, cookie: namespace.id.cookie, name: await namespace.knownName())
  }

  func title(_ id: NamespaceID) async -> Reply.Namespace {
    guard let namespace = await supervisor.known(id) else {
      return Reply.Namespace(inode: id.inode, cookie: id.cookie, name: "")
    }
    return await title(namespace)
  }

  /// A namespace as people name it.
  func namespace(_ text: String) async throws -> NetworkNamespace {
    var inode = UInt32(text)
    if text == "init" { inode = around.directory.own.inode }
    if inode == nil { inode = await around.directory.inode(named: text) }
    guard let inode, let found = await supervisor.all().first(where: { $0.id.inode == inode })
    else {
      throw Problem(
        .notFound,
        "no network namespace \"\(text)\" is known; it is a name as of \"ip netns\", an inode"
          + " number as of \"lsns\", or init")
    }
    return found
  }

  // MARK: Records

  nonisolated func record(of record: Record) -> Reply.Record {
    Reply.Record(
      id: record.id, time: Moment(milliseconds: record.time / 1000).iso,
      kind: record.kind.rawValue, tuner: record.tuner, tunable: record.tunable,
      namespace: Reply.Namespace(
        inode: record.namespace.inode, cookie: record.namespace.cookie,
        name: record.namespaceName),
      old: Self.words(record.old), new: Self.words(record.new), scenario: record.scenario,
      reason: record.reason, outcome: record.outcome, repeats: record.repeats,
      verdict: record.verdict?.rawValue, effect: record.effect)
  }

  /// An administrator's write stands as it was written, with tabs.
  private static func words(_ text: String) -> String {
    text.split(whereSeparator: \.isWhitespace).joined(separator: " ")
  }

  func history(_ filter: HistoryFilter) async -> [Record] {
    await around.journal.history(filter)
  }

  func holdings() async -> [Holding] { await around.journal.holdings() }
  func follow() async -> AsyncStream<Record> { await around.journal.follow() }
}

extension Reply.Signal {
  init(_ line: Hooks.Line) {
    self.init(
      owner: line.owner, signal: line.report.signal.name, hook: line.report.hook?.name,
      refused: line.report.refusals.map { Refusal(hook: $0.hook, reason: $0.reason) })
  }
}
