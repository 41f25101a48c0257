public import Kernel
public import State
import Synchronization

extension Holding {
  /// Nil for a name or a value that no version of the daemon would have stored.
  /// `foreign` are tunables of tuners from outside.
  init?(_ row: StateFile.Row, foreign: [Tunable]) {
    guard
      let tunable = Tunable.known(row.tunable) ?? foreign.first(where: { $0.name == row.tunable }),
      let original = SysctlValue(row.original, arity: tunable.arity),
      let written = SysctlValue(row.written, arity: tunable.arity),
      let previous = SysctlValue(row.previous, arity: tunable.arity)
    else { return nil }
    self.init(
      namespace: row.namespace, tunable: tunable, tuner: row.tuner, original: original,
      written: written, previous: previous, since: row.since,
      changes: Int(clamping: row.changes), scenario: row.scenario, reason: row.reason)
    namespaceName = row.namespaceName
    risk = row.risk
  }

  /// Whose value `current` is, after a daemon that ended in the middle of things.
  enum Standing: Equatable {
    /// What was to be written, or what was written the time before.
    case ours(SysctlValue)
    /// As it was before the first change.
    case original
    case someoneElses
  }

  func standing(of current: SysctlValue) -> Standing {
    if current == original, previous == original || written == original { return .original }
    if current == written || current == previous { return .ours(current) }
    return .someoneElses
  }
}

extension Tunable {
  /// The tunable of that name, also one of a device; nil when no tuner has it.
  public static func known(_ name: String) -> Tunable? {
    for tunable in tuners.lazy.flatMap({ $0.tunables }) {
      if tunable.name == name { return tunable }
      let path = Tunable(name, tunable.arity, tunable.scope, bounds: tunable.bounds).path
      if tunable.name.contains("*"), let device = tunable.device(inPath: path) {
        return tunable.of(device: device)
      }
    }
    return nil
  }
}

/// What a daemon that has ended left behind.
public enum Recovery {
  /// One tunable that was looked at.
  public struct Line: Sendable {
    public enum Result: Sendable, Equatable {
      /// With `dryRun`: it would be.
      case putBack
      /// It holds the original already.
      case unchanged
      /// Someone else has set it since; it is left alone.
      case leftAt(SysctlValue)
      /// The namespace is gone.
      case gone
      case failed(String)
    }
    public let holding: Holding
    public let result: Result
  }

  /// Puts back what a daemon that ended without doing so left changed. Only
  /// while no daemon runs: take the instance lock first. `names` chooses
  /// tunables; empty stands for all. The calling thread becomes a kernel loop
  /// until it is done. Throws what keeps the state from being read, in words
  /// for an administrator.
  public static func putBack(
    stateDirectory: String, names: Set<String> = [], dryRun: Bool = false,
    notice: @escaping @Sendable (String) -> Void
  ) throws -> [Line] {
    let loop = try KernelLoop()
    let directory = try NamespaceDirectory(loop: loop)
    let outcome = Mutex<Result<[Line], any Error>>(.success([]))
    Task(executorPreference: loop) {
      do {
        let lines = try await putBack(
          stateDirectory, names, dryRun: dryRun, directory, notice: notice)
        outcome.withLock { $0 = .success(lines) }
      } catch {
        outcome.withLock { $0 = .failure(error) }
      }
      loop.stop()
    }
    loop.run()
    return try outcome.withLock { $0 }.get()
  }

  private static func putBack(
    _ stateDirectory: String, _ names: Set<String>, dryRun: Bool, _ directory: NamespaceDirectory,
    notice: (String) -> Void
  ) async throws -> [Line] {
    let file = try StateFile.open(directory: stateDirectory, notice: notice)
    var lines: [Line] = []
    let foreign = try file.foreignTunables()
    for row in try file.holdings() {
      guard let holding = Holding(row, foreign: foreign) else {
        notice("\(row.tunable) of \(row.namespace) is unknown to this version and left alone")
        continue
      }
      guard names.isEmpty || names.contains(where: { holding.tunable.isCalled($0) }) else {
        continue
      }
      let result = await putBack(holding, directory, dryRun: dryRun)
      lines.append(Line(holding: holding, result: result))
      if dryRun { continue }
      if case .failed = result { continue }
      try? file.remove(holding.namespace, tunable: holding.tunable.name)
      guard result == .putBack else { continue }
      var record = Record(
        .rollback, time: WallClock.now(), tuner: holding.tuner, tunable: holding.tunable.name,
        namespace: holding.namespace, namespaceName: holding.namespaceName,
        old: "\(holding.written)", new: "\(holding.original)", reason: "after the daemon ended")
      record.boot = file.machine.boot
      record.id = ((try? file.lastRecord()) ?? 0) + 1
      try? file.save(record, own: row.own)
    }
    try? file.synchronize()
    return lines
  }

  private static func putBack(
    _ holding: Holding, _ directory: NamespaceDirectory, dryRun: Bool
  ) async -> Line.Result {
    let tunable = holding.tunable
    do {
      let result = try await directory.inside(holding.namespace) {
        () throws(Sysctl.Failure) -> Line.Result in
        let current = try Sysctl.read(tunable)
        switch holding.standing(of: current) {
        case .original: return .unchanged
        case .someoneElses: return .leftAt(current)
        case .ours(let value):
          if dryRun { return .putBack }
          let other = try Sysctl.replace(tunable, value, with: holding.original)
          return other.map { .leftAt($0) } ?? .putBack
        }
      }
      return try result.get()
    } catch NamespaceDirectory.Failure.gone {
      return .gone
    } catch Sysctl.Failure.absent {
      return .gone
    } catch {
      return .failed("\(error)")
    }
  }
}
