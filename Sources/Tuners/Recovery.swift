public import Kernel
public import State

/// What a daemon that has ended left behind.
public enum Recovery {
  /// One tunable that was looked at.
  public struct Line: Sendable {
    public enum Result: Sendable, Equatable {
      case putBack
      /// Someone else has set it since; it is left alone.
      case leftAt(SysctlValue)
      /// The namespace is gone, or the machine was started anew.
      case gone
      case failed(String)
    }
    public let holding: Holding
    public let namespaceName: String
    public let result: Result
  }

  /// Puts back what a daemon that ended without doing so left changed. Only
  /// while no daemon runs: take the instance lock first. `names` chooses
  /// tunables; empty stands for all. Throws `SystemCallFailure` or a
  /// `StateFile.Failure` when there is no state to read.
  public static func putBack(
    stateDirectory: String, names: Set<String> = [], loop: KernelLoop, dryRun: Bool = false
  ) async throws -> [Line] {
    []
  }
}
