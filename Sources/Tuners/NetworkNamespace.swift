public import Kernel
public import Logging
import State

/// A network namespace: owns every write to its tunables.
///
/// Fed by a stream of requests, in order. Before it writes it asks: may this
/// tuner still tune here, does the tunable still hold the value that the
/// decision assumed, is the new value inside the bounds? Then it notes the
/// original, writes, reads back and logs.
public actor NetworkNamespace {
  /// Shared by all namespaces.
  public struct Surroundings: Sendable {
    public let loop: KernelLoop
    public let directory: NamespaceDirectory
    public let journal: Journal
    public let dryRun: Bool
    /// What an administrator allows though it can break something.
    public let allowedRisks: Set<Risk>
    /// Which namespaces are left untouched.
    public let holdOut: HoldOut
    /// Stops what BPF programs do by themselves.
    public let gates: Gates?
    public let log: Logger
    public let counters = Counters()

    public init(
      loop: KernelLoop, directory: NamespaceDirectory, journal: Journal, dryRun: Bool,
      allowedRisks: Set<Risk> = [], holdOut: HoldOut = .none, gates: Gates? = nil, log: Logger
    ) {
      self.loop = loop
      self.directory = directory
      self.journal = journal
      self.dryRun = dryRun
      self.allowedRisks = allowedRisks
      self.holdOut = holdOut
      self.gates = gates
      self.log = log
    }
  }

  enum Request: Sendable {
    case adjust(
      Adjustment, tuner: String, seenAt: UInt64, answer: CheckedContinuation<Outcome, Never>)
    case administratorWrote(AdministratorWrite)
    /// An experiment's time is over.
    case conclude(Tunable, Int)
    case rollBack(Set<String>, answer: CheckedContinuation<Int, Never>)
    case turn(String, on: Bool, answer: CheckedContinuation<Bool, Never>)
    case note(String, about: String)
  }

  public nonisolated let id: NamespaceID
  let around: Surroundings
  public nonisolated var unownedExecutor: UnownedSerialExecutor {
    around.loop.asUnownedSerialExecutor()
  }

  private let requests: AsyncStream<Request>
  private nonisolated let mailbox: AsyncStream<Request>.Continuation
  /// Tuners that an administrator's write has disabled here, and which write.
  var disabled: [String: AdministratorWrite] = [:]
  /// Tuners that were turned off here by command.
  private var turnedOff: Set<String> = []
  var folder = LogFolder()
  /// The record of the last change.
  private(set) var written: Record?
  /// Refusals that have a record.
  private var noted: Set<String> = []
  private(set) var name: String?
  /// When it was found to have none last.
  private var nameless: ContinuousClock.Instant?
  /// What stood in tunables that can be written unseen (by netlink) when nobody
  /// else was known to have written; the own namespace's.
  private var undisturbed: [Tunable: SysctlValue] = [:]
  var experiments: [Tunable: Experiment] = [:]
  var setbacks: [Tunable: Setback] = [:]

  public init(
    _ id: NamespaceID, around: Surroundings, disabled: [String: AdministratorWrite] = [:],
    turnedOff: Set<String> = []
  ) {
    self.id = id
    self.around = around
    self.disabled = disabled
    self.turnedOff = turnedOff
    // Not bounded, since nothing may be lost: a tuner waits for the answer to
    // each adjustment, and the kernel side bounds the writes that it tells of.
    (requests, mailbox) = AsyncStream.makeStream(of: Request.self)
  }

  /// Serves requests until `finish()`.
  public func run() async {
    for tuner in disabled.keys { closeGate(of: tuner) }
    if isHeldOut {
      for tuner in tuners where tuner.actsByItself { closeGate(of: tuner.name) }
    }
    await noteUndisturbed()
    for await request in requests {
      switch request {
      case .adjust(let adjustment, let tuner, let seenAt, let answer):
        let outcome = await apply(adjustment, of: tuner)
        answer.resume(returning: outcome)
        await record(adjustment, of: tuner, outcome, seenAt: seenAt)
        await observe(adjustment, of: tuner, outcome)
      case .conclude(let tunable, let number):
        await conclude(tunable, number: number)
      case .administratorWrote(let write):
        await yield(to: write)
      case .rollBack(let names, let answer):
        answer.resume(returning: await putBack(names))
      case .turn(let tuner, let on, let answer):
        answer.resume(returning: nowTurned(tuner, on: on))
        if on { await noteUndisturbed() }
      case .note(let text, let subject):
        await log(text, about: subject)
      }
    }
    for experiment in experiments.values { experiment.timer.cancel() }
  }

  /// Lets `run()` return after the requests that are waiting.
  public nonisolated func finish() { mailbox.finish() }

  /// Carries out an adjustment, after those that came before it.
  public nonisolated func carryOut(
    _ adjustment: Adjustment, of tuner: String, seenAt: UInt64
  ) async -> Outcome {
    await withCheckedContinuation { answer in
      put(.adjust(adjustment, tuner: tuner, seenAt: seenAt, answer: answer))
    }
  }

  /// The same before `run()`.
  public func carryOutFirst(_ adjustment: Adjustment, of tuner: String) async -> Outcome {
    let now = KernelEvent.now()
    let outcome = await apply(adjustment, of: tuner)
    await record(adjustment, of: tuner, outcome, seenAt: now)
    return outcome
  }

  /// Takes note of an administrator's write: its tuner is disabled from now on.
  public nonisolated func administratorWrote(_ write: AdministratorWrite) {
    put(.administratorWrote(write))
  }

  /// Puts back what the daemon changed here and still holds its value, of
  /// these tunables or of all when no name is given; how many that were.
  public nonisolated func rollBack(_ names: Set<String> = []) async -> Int {
    await withCheckedContinuation { put(.rollBack(names, answer: $0)) }
  }

  /// Turns a tuner off here, or on again also where an administrator's write has
  /// disabled it; whether that made a difference.
  public nonisolated func turn(_ tuner: String, on: Bool) async -> Bool {
    await withCheckedContinuation { put(.turn(tuner, on: on, answer: $0)) }
  }

  private func nowTurned(_ tuner: String, on: Bool) -> Bool {
    guard on else {
      closeGate(of: tuner)
      return turnedOff.insert(tuner).inserted
    }
    if !isHeldOut { around.gates?.open(tuner, in: id) }
    let wasDisabled = disabled.removeValue(forKey: tuner) != nil
    return turnedOff.remove(tuner) != nil || wasDisabled
  }

  /// It stays as it is, so that others can be compared with it.
  private var isHeldOut: Bool { id != around.directory.own && around.holdOut.includes(id) }

  /// Tuners that were turned off here by command.
  public func tunersTurnedOff() -> Set<String> { turnedOff }

  /// Its name as people know it; empty when it has none.
  public func knownName() async -> String {
    _ = await title()
    return name ?? ""
  }

  /// Reads a tunable here.
  public func read(_ tunable: Tunable) async throws(Refusal) -> SysctlValue {
    try await visit { () throws(Sysctl.Failure) in try Sysctl.read(tunable) }
  }

  /// The devices here that have a tunable with `*` in its name.
  public func devices(of tunable: Tunable) async -> [String] {
    (try? await visit { () throws(Sysctl.Failure) in Sysctl.devices(of: tunable) }) ?? []
  }

  /// Logs what a tuner's programs have done here by themselves, or in a dry run
  /// would have.
  public nonisolated func note(_ text: String, about subject: String) {
    put(.note(text, about: subject))
  }

  /// What administrators have disabled here.
  public func administratorWrites() -> [String: AdministratorWrite] { disabled }

  nonisolated func put(_ request: Request) {
    guard case .terminated = mailbox.yield(request) else { return }
    switch request {
    case .adjust(_, _, _, let answer): answer.resume(returning: .refused(.namespaceGone))
    case .rollBack(_, let answer): answer.resume(returning: 0)
    case .turn(_, _, let answer): answer.resume(returning: false)
    case .conclude, .note, .administratorWrote: return
    }
  }

  // MARK: Adjusting

  func apply(
    _ adjustment: Adjustment, of tuner: String, as kind: Record.Kind = .change
  ) async -> Outcome {
    let tunable = adjustment.tunable
    if let write = disabled[tuner] { return .refused(.administrator(write.description)) }
    if turnedOff.contains(tuner) { return .refused(.turnedOff) }
    guard adjustment.wanted.numbers.allSatisfy(tunable.bounds.contains) else {
      return .refused(.outOfBounds(tunable.bounds))
    }
    let ours = await around.journal.holding(tunable, in: id)?.written
    let old: SysctlValue
    do {
      old = try await visit { () throws(Sysctl.Failure) in try Sysctl.read(tunable) }
    } catch {
      return .refused(error)
    }
    if let before = ours ?? undisturbed[tunable], before != old {
      for owner in tunable.owners.union([tuner]).sorted() {
        await disable(
          owner,
          AdministratorWrite(
            tunable: tunable, tuner: owner, process: 0, command: "", old: "\(before)",
            new: "\(old)"))
      }
      return .refused(.administrator("\(tunable.name) was set to \(old) by someone else"))
    }
    guard adjustment.assumed.holds(in: old) else { return .refused(.stale(current: old)) }
    let new = old.with(adjustment.wanted)
    if kind == .change, let refusal = setback(tunable, new) { return .refused(refusal) }
    if tunable.scope == .perNamespace, isHeldOut {
      return .refused(.heldOut(current: old))
    }
    if around.dryRun || !isAllowed(adjustment) { return .advised(old: old, new: new) }

    await around.journal.willWrite(
      new, over: old, adjustment, in: id, name: name, tuner: tuner, as: kind)
    do throws(Refusal) {
      let other = try await replace(tunable, old, with: new)
      if let other { throw .stale(current: other) }
    } catch {
      let current = try? await visit { () throws(Sysctl.Failure) in try Sysctl.read(tunable) }
      if case .stale = error {
        await around.journal.didNotWrite(tunable, in: id, now: old, "\(error)")
      } else {
        await around.journal.didNotWrite(tunable, in: id, now: current, "\(error)")
      }
      return .refused(error)
    }
    let time = KernelEvent.now()
    noteOwnWrite(tunable, new)
    // What it is called may take a while to find: not before the write.
    _ = await title()
    written = await around.journal.didWrite(tunable, in: id, name: name)
    return .applied(old: old, new: new, at: time)
  }

  /// Nil when `new` was written; else what stands there instead of `old`.
  private func replace(
    _ tunable: Tunable, _ old: SysctlValue, with new: SysctlValue
  ) async throws(Refusal) -> SysctlValue? {
    try await visit { () throws(Sysctl.Failure) in try Sysctl.replace(tunable, old, with: new) }
  }

  /// Does something to a tunable inside this namespace.
  func visit<R: Sendable>(
    _ body: @Sendable () throws(Sysctl.Failure) -> R
  ) async throws(Refusal) -> R {
    let result: Result<R, Sysctl.Failure>
    do {
      result = try await around.directory.inside(id, body)
    } catch {
      switch error {
      case .gone: throw .namespaceGone
      case .failed: throw .failed(error.description)
      }
    }
    switch result {
    case .success(let value): return value
    case .failure(.absent): throw .unavailable
    case .failure(let failure): throw .failed(failure.description)
    }
  }

  private func isAllowed(_ adjustment: Adjustment) -> Bool {
    adjustment.risk.map(around.allowedRisks.contains) ?? true
  }

  // MARK: Administrators

  func disable(_ tuner: String, _ write: AdministratorWrite) async {
    let here = await title()
    let record = await around.journal.administratorWrote(
      write, in: id, name: name,
      isWorthARecord: folder.admit("administrator \(write.tunable.name)") != nil)
    guard disabled.updateValue(write, forKey: tuner) == nil else { return }
    closeGate(of: tuner)
    around.log.notice(
      "\(write); \(tuner) is disabled in \(here) until \"bpftune enable \(tuner)\"",
      metadata: record.fields)
  }

  private func noteUndisturbed() async {
    guard id == around.directory.own else { return }
    for tunable in tuners.lazy.flatMap({ $0.tunables }) where tunable.isWrittenByNetlink {
      undisturbed[tunable] = try? await read(tunable)
    }
  }

  private func noteOwnWrite(_ tunable: Tunable, _ value: SysctlValue) {
    if undisturbed[tunable] != nil { undisturbed[tunable] = value }
  }

  private func closeGate(of tuner: String) {
    do {
      try around.gates?.close(tuner, in: id)
    } catch {
      around.log.error("\(tuner) goes on in \(id): \(error)")
    }
  }

  /// The administrator's value stays, whatever was under way when it came.
  private func yield(to write: AdministratorWrite) async {
    let ours = await around.journal.holding(write.tunable, in: id)?.written
    await disable(write.tuner, write)
    guard let ours else { return }
    // The write was reported before the kernel carried it out. If what the
    // namespace holds is still ours, either it is on its way, or ours came
    // after it: the administrator's value goes in again.
    let tunable = write.tunable
    let current = try? await visit { () throws(Sysctl.Failure) in try Sysctl.read(tunable) }
    guard let current, current == ours, let new = write.new,
      let wanted = current.overwritten(by: new, arity: tunable.arity), wanted != current
    else { return }
    do {
      _ = try await replace(tunable, current, with: wanted)
    } catch {
      // The kernel would not take the administrator's value either.
      around.log.debug("\(tunable.name) \(wanted) in \(id): \(error)")
    }
  }

  // MARK: Rolling back

  private func putBack(_ names: Set<String>) async -> Int {
    var count = 0
    let here = await title()
    for holding in await around.journal.holdings(in: id)
    where names.isEmpty || names.contains(holding.tunable.name) {
      let tunable = holding.tunable
      do {
        let current = holding.written
        let original = holding.original
        if let other = try await replace(tunable, current, with: original) {
          around.log.notice(
            "\(tunable.name) is left at \(other) in \(here): someone else set it")
          continue
        }
        noteOwnWrite(tunable, original)
        let record = await around.journal.didPutBack(holding, name: name)
        count += 1
        around.log.notice(
          "\(tunable.name) \(current) -> \(original) (\(here)): rolled back",
          metadata: record.fields)
      } catch {
        if error == .namespaceGone { return count }
        around.log.error("cannot roll back \(tunable.name) in \(here): \(error)")
      }
    }
    return count
  }

  // MARK: Logging

  func record(
    _ adjustment: Adjustment, of tuner: String, _ outcome: Outcome, seenAt: UInt64
  ) async {
    let tunable = adjustment.tunable.name
    around.counters.count(outcome, of: tuner, adjustment.tunable, seenAt: seenAt)
    switch outcome {
    case .applied(let old, let new, let time):
      guard let repeats = folder.admit("\(tunable)") else { return }
      let here = await title()
      around.log.notice(
        "\(tunable) \(old) -> \(new) (\(here)): \(adjustment.reason)\(repeats)",
        metadata: written?.fields)
      around.log.debug(
        "\(tuner): \(adjustment.scenario): written \((time - seenAt) / 1000) us after the event")
    case .advised(let old, let new):
      guard let repeats = folder.admit("advice \(tunable) \(new)", most: 1) else { return }
      let here = await title()
      let record = await around.journal.note(
        adjustment, outcome, in: id, name: name, tuner: tuner)
      let risk = adjustment.risk.map {
        isAllowed(adjustment) ? "" : "; it \($0.warning), and so needs --allow-risky \($0.name)"
      }
      around.log.notice(
        "advice: \(tunable) \(old) -> \(new) (\(here)): \(adjustment.reason)\(risk ?? "")\(repeats)",
        metadata: record.fields)
    case .refused(let refusal):
      switch refusal {
      case .failed:
        guard let repeats = folder.admit("failed \(tunable)", most: 1) else { return }
        let here = await title()
        let record = await around.journal.note(
          adjustment, outcome, in: id, name: name, tuner: tuner)
        around.log.error(
          "\(tuner): \(tunable) in \(here): \(refusal)\(repeats)", metadata: record.fields)
      case .administrator, .turnedOff:
        if refusal != .turnedOff { await noteOnce(adjustment, of: tuner, outcome) }
        guard let repeats = folder.admit("disabled \(tuner)", most: 1) else { return }
        around.log.debug("\(tuner): \(tunable) refused in \(id): \(refusal)\(repeats)")
      case .unavailable, .outOfBounds, .setback:
        await noteOnce(adjustment, of: tuner, outcome)
        fallthrough
      default:
        around.log.debug(
          "\(tuner): \(tunable) to \(adjustment.wanted) refused in \(id): \(refusal)")
      }
    }
  }

  private func log(_ text: String, about subject: String) async {
    guard let repeats = folder.admit(subject) else { return }
    let here = await title()
    around.log.notice("\(around.dryRun ? "advice: " : "")\(text) (\(here))\(repeats)")
  }

  /// A refusal that would come again and again has one record.
  private func noteOnce(_ adjustment: Adjustment, of tuner: String, _ outcome: Outcome) async {
    guard noted.count < 64, noted.insert("\(tuner) \(adjustment.tunable.name)").inserted else {
      return
    }
    _ = await title()
    await around.journal.note(adjustment, outcome, in: id, name: name, tuner: tuner)
  }

  /// `netns 4026532281 "name"`.
  func title() async -> String {
    // It may get a name yet; but to look for one takes a while.
    if name == nil, nameless.map({ .now - $0 >= .seconds(1) }) ?? true {
      let found = await around.directory.name(of: id)
      name = found.isEmpty ? nil : found
      nameless = .now
    }
    return name.map { "\(id) \"\($0)\"" } ?? "\(id)"
  }
}
