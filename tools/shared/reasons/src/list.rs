//! The list. Each entry has the meaning, the word, the exit statuses of the errors with this reason, and
//! the next action for a person. A reason without an exit status is no error: it is only in a condition,
//! or in an entry of `status.refusals`.
//!
//! Before a new entry: search the meanings for the same cause. Two words for one cause are a mistake.

macro_rules! reasons {
    ($($(#[doc = $meaning:literal])+ $word:ident $exits:tt $action:literal)+) => {
        /// Reason of a condition, an error or a refusal.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[doc = $meaning])+ $word,)+
        }

        impl Reason {
            /// All reasons, in the order of the list.
            pub const ALL: &[Self] = &[$(Self::$word),+];

            /// Returns the word as it stands in a status.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$word => stringify!($word),)+
                }
            }

            /// Returns the meaning as sentences.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$word => concat!($($meaning),+).trim_ascii(),)+
                }
            }

            /// Returns the exit statuses of the errors with this reason.
            #[must_use]
            pub const fn exits(self) -> &'static [u8] {
                match self {
                    $(Self::$word => &$exits,)+
                }
            }

            /// Returns the next action for a person as sentences.
            #[must_use]
            pub const fn action(self) -> &'static str {
                match self {
                    $(Self::$word => $action,)+
                }
            }
        }
    };
}

reasons! {
    // States of a document.

    /// Steps are left to execute.
    Planned [] "Run `apply`, or `destroy` if the plan is that of `destroy`. `plan --check` exits with 3."
    /// The repository, or the checked part of a cluster, is as the document declares.
    AsDeclared [] "None."
    /// The checked part of a cluster differs from the document.
    NotAsDeclared [] "Run `plan` to see the steps; the message of the condition names the difference."
    /// The artifact is published, signed and attested.
    Published [] "None."
    /// All machines exist, and all checks of the cluster pass.
    Provisioned [] "None."
    /// Flux has delivered the artifact, and all of its objects are ready.
    Delivered [] "None."
    /// All sources are copied, read back and receipted.
    Drained [] "None."
    /// Every check of `verify` passed.
    Verified [] "None."
    /// A check of `verify` failed: the observed state differs from the declared one.
    VerificationFailed [100, 111] "Run `plan` to see the differences, and `apply` to correct them."
    /// `destroy` removed everything that the document declares.
    Destroyed [] "None."
    /// The caller has no more than the key of a reader, which cannot determine the condition.
    ReaderAccess [] "Run the command with the key of the program if the condition must be known."
    /// The forge has no feature for something that the document declares.
    UnsupportedByForge [100] "Remove the feature from the document, or accept that the forge does not enforce it."
    /// The forge does not report what a proof needs, so a later change by another writer is not detected.
    NotTold [] "None: the forge has no such report."
    /// Resources remain that other programs created.
    MadeByOthers [] "Delete the resources by hand if they are not needed."

    // Documents and the engine.

    /// A document, an argument or the combination of documents is invalid. Nothing was changed.
    Invalid [2, 100] "Correct the document as the message says; `schema` prints the permitted fields."
    /// The input has no Project of the name to which the document refers.
    ProjectMissing [100] "Add the document of the Project to the input."
    /// The Project lacks an endpoint that the program needs.
    EndpointMissing [100] "Declare the endpoint in `endpoints` of the Project."
    /// A document on which this document depends is not Ready, or lacks a value.
    DependencyNotReady [111] "Run the program of that document first, and pass its output to this program."
    /// Another document still needs the resources of this document.
    StillNeeded [111] "Run `destroy` of the program of the other document first."
    /// An object of another owner has the place or the name of a declared object.
    Conflict [100] "Rename the declared object, or remove the object that is in the way."
    /// All steps are executed, or a wait has ended, and the observation still differs from the document.
    NotConverged [111] "Remove the cause in the message, then run the same command again."
    /// A signal ended the program between two steps.
    Interrupted [111] "Run the same command again: it continues."
    /// The documents cannot be written to standard output.
    OutputFailed [111] "Check the destination of standard output, for example for a full disk."
    /// The program has a bug.
    Bug [100] "Report the message, the command and the document to the maintainers."

    // Remote services.

    /// The remote did not answer, or it cannot serve requests now (5xx).
    Unreachable [111] "Check the network and the service, then run the same command again."
    /// The response to a write was lost, so the write may have been applied.
    ResponseLost [111] "Run the same command again: every run observes first."
    /// The certificate of the remote is not trusted.
    Untrusted [100] "Compare the endpoint with the certificate, and check its authority and its dates."
    /// The remote redirects to another address, which does not receive the token.
    Redirected [100] "Write the address of the API itself into the Project, and make the forge's own URL agree."
    /// A URL in a status or an answer is not at the declared forge, so it does not receive the token.
    ForeignOrigin [100] "Make `endpoints.forge` of the Project and the forge's own URL agree."
    /// The remote requires a credential, or does not accept the one that it got (401).
    Unauthorized [100] "Create a new credential, and store it where the Project refers to it."
    /// The remote accepts the credential, but the credential lacks a permission (403).
    Forbidden [100] "Grant the permission that the message names."
    /// The organisation requires single sign-on for the token.
    SsoRequired [100] "Authorise the token for single sign-on, in the settings of the token."
    /// The history contains workflows, and the token may not write workflows.
    WorkflowScopeMissing [100] "Give the token the scope `workflow`, or write access to Workflows."
    /// The plan that the owner pays for lacks the feature.
    PlanGate [100] "Upgrade the plan, make the repository public, or remove the feature from the document."
    /// The remote allows no more requests for now (429).
    RateLimited [111] "Run the same command again later: finished steps are not repeated."
    /// A quota or a size limit of the remote does not allow the change.
    QuotaExceeded [100] "Raise the quota, or delete objects that use it."
    /// The remote rejects the request as invalid, or for a cause that only its message gives.
    Rejected [100] "Correct the cause in the message, then run the same command again."
    /// The answer of the remote is not in the expected format.
    InvalidResponse [100, 111] "Check that the address is that of the service, and that this version supports it."
    /// The remote has no object of this name, or hides the object from the credential.
    NotFound [100] "Correct the name, or give the credential access to the object."
    /// The remote does not show an object, and the credential does not suffice to prove its absence.
    AbsenceUnproven [100] "Use a credential that may see all objects of the owner."
    /// Several objects match where exactly one is needed.
    NotUnique [100] "Name one of the objects, or rename or remove the others."
    /// Another writer changed an object while the program worked on it.
    Changed [111] "Find the other writer, then run the same command again."
    /// Another run works on the same document or folder, and holds its lock.
    Busy [111] "Wait until the other run has ended, then run the same command again."
    /// The repository has another name or owner.
    Renamed [100] "Write the new name and owner into the document, or restore the old name."
    /// An admission policy or webhook of the cluster denies the request.
    AdmissionDenied [100] "Change the object as the message says, or exempt the Namespace from the policy."
    /// An admission webhook of the cluster did not answer.
    WebhookFailed [111] "Start the workload that serves the webhook."
    /// The Namespace of the object is being deleted.
    Terminating [111] "Wait until the Namespace is deleted; its finalizers may block the deletion."
    /// An operation did not end within its limit.
    TimedOut [111] "Run the same command again; raise the limit in the document if the document has one."

    // This machine.

    /// A program that this program calls is missing, too old, or cannot be started.
    ToolMissing [100] "Install the program that the message names, or put it on PATH."
    /// A command that this program called failed.
    CommandFailed [111] "Run the same command again; the message names the cause."
    /// A file or folder of this machine cannot be read or written.
    FileFailed [100] "Check that the path exists, its permissions, and the free disk space."
    /// The program would have to overwrite an existing file, which it never does.
    WouldOverwrite [2, 100] "Name a file or folder that does not exist yet."
    /// The disk is full, or nearly full.
    DiskFull [100] "Free space, or use folders on another disk."
    /// The asynchronous runtime cannot start, because the system lacks resources.
    RuntimeFailed [111] "Raise the limits of open files, processes and memory."

    // Secrets.

    /// A secret cannot be read, or is not usable.
    SecretUnavailable [100, 111] "Correct the reference or its target as the message says."
    /// The secret is published with these programs, so anybody can use it.
    PublishedSecret [2] "Create secrets of your own: `./tasks/init NAME OWNER`."
    /// A text cannot be encrypted.
    EncryptionFailed [100] "Add a recipient to the Project; check the free memory."
    /// A text cannot be decrypted: it is damaged, or it is encrypted to other recipients.
    DecryptionFailed [100] "Provide an identity of a recipient, or encrypt the text again with the missing recipient."
    /// The kubeconfig is invalid, or has a setting that is not permitted, for example a program to run.
    KubeconfigInvalid [100] "Write a new kubeconfig: `talos-provision apply`."
    /// A public key in `verificationKeys` of the Project cannot be parsed.
    VerificationKeyInvalid [100] "Copy the `.pub` file that `derive` writes."
    /// The Project names no public key that verifies artifacts.
    VerificationKeyMissing [100] "Write the public key under `verificationKeys.artifacts` of the Project."
    /// The signing key is not the one that the Project names first.
    ForeignKey [100] "Write the new public key first under `verificationKeys.artifacts` of the Project."

    // Git and the forge.

    /// A git command failed.
    GitFailed [100, 111] "Correct the cause in Git's message, then run the same command again."
    /// The declared branch does not exist here, or has no commit.
    NoHistory [100] "Create the branch with a commit, or declare another branch."
    /// The forge has commits that the local branch lacks.
    HistoryDiverged [100] "Run `git pull --rebase`, then the same command again. No push is ever forced."
    /// The clone is shallow or partial, or lacks objects of Git LFS, so it lacks a part of the history.
    HistoryIncomplete [100] "Run `git fetch --unshallow` or `git lfs fetch --all`, or clone again without `--filter`."
    /// The forge does not accept objects of the history, because they are broken.
    HistoryBroken [100] "`git fsck --full` shows the broken objects."
    /// The history holds pointers, for example of Git LFS, instead of the contents of files.
    NotInCommit [100] "Install git-lfs, which uploads the contents, or commit the files themselves."
    /// A file in the history is larger than the forge accepts.
    FileTooLarge [100] "Remove the file from the whole history."
    /// The history contains a secret.
    SecretInHistory [100] "Revoke the secret, then remove it from every commit."
    /// A commit shows an e-mail address that its account keeps private.
    PrivateEmail [100] "Rewrite the commit with the noreply address of the account."
    /// A rule of the forge forbids the push.
    BranchProtected [100] "Use a pull request, or change the rule as the message says."
    /// The repository at the forge has a work tree with the pushed branch.
    BranchCheckedOut [100] "Make the repository at the forge bare."
    /// A hook of the forge rejects the push.
    HookDeclined [100] "Correct the cause in the message of the hook."
    /// The repository is archived.
    Archived [100] "Unarchive the repository to use it again."
    /// The repository is private, and the document declares it public without `allowPublish`.
    PublishNotAllowed [100] "Declare `allowPublish: true`, or `visibility: private`."
    /// The ownership record of a repository was not written with the key of this project.
    OwnershipDisputed [100] "Use the root and the generations with which the record was written."

    // Artifacts.

    /// The source has uncommitted changes.
    NotCommitted [100] "Commit the changes."
    /// A file of the source is invalid.
    SourceInvalid [100] "Correct the file, and commit the change."
    /// The declared source does not contain the commit.
    NotInSource [100] "Push the branch, or declare the repository that contains the commit."
    /// The declared source cannot be read, so it is unknown whether it contains the commit.
    SourceUnknown [100, 111] "Check `source` and the login for it; `sourceCheck: skip` leaves the check out."
    /// `flake.lock` is missing, or does not match `flake.nix`.
    Unlocked [100] "Run `nix flake lock`, and commit the file."
    /// Nix cannot evaluate the flake.
    EvaluationFailed [100, 111] "Run `nix build` in the source to see the same error."
    /// A build failed, or its result is incomplete.
    BuildFailed [100] "Read the log that the message names, and correct the cause."
    /// The second build differs from the first. Nothing was published.
    NotReproducible [100] "Compare both results, and remove the difference; `rebuild: skip` leaves the second build out."
    /// Nix failed before a build began, or printed an unknown format.
    NixFailed [100, 111] "Run the command that the help names to see the same error."
    /// The binary cache cannot be read or written.
    BinaryCacheFailed [100, 111] "Check `endpoints.nix.cache` of the Project: its URL and its credentials. Nix needs to be built with S3 for a bucket."
    /// A container of the image could not start.
    CannotStart [100] "Correct `image.entrypoint`, or what the flake installs."
    /// Stored content is missing, or differs from what was written.
    Corrupt [100] "Do not use the content, and delete no other copy; find out who can write to the store."
    /// The registry has deletion disabled.
    DeletionOff [100] "Enable deletion, or delete the package on its page."

    // Clusters.

    /// The cloud has no image of the declared version of Talos.
    NoImage [100] "Create the snapshot as the help describes."
    /// A temporary server did not write the image of Talos.
    ImageNotWritten [111] "Correct the cause that the message names, then run the same command again."
    /// The server type or the load balancer is sold out in every declared location.
    Unavailable [111] "Declare more locations or another type, or run the same command later."
    /// An action of the cloud ended with an error.
    ActionFailed [111] "Run the same command again; the vendor's status page may name the cause."
    /// A patch does not fit the configuration of the machine.
    PatchUnfit [100] "Correct the patch, then run `plan`."
    /// etcd ends again and again after its start.
    EtcdCrashes [100] "Read the log of etcd on that machine, and correct `cluster.etcd` in the patches."
    /// The certificates of the authorities have expired.
    Expired [100] "Raise `certificates.years` before the end; afterwards, create the cluster again."
    /// An eviction would lose pods, or the contents of their volumes.
    PodsWouldBeLost [100] "Resolve each entry of `status.refusals` as its message says."
    /// No pod has left the machine within the declared time.
    NotEvicted [111] "Add a machine, start more replicas, or relax the PodDisruptionBudget."
    /// No controller starts the pod again on another machine.
    NoController [] "Create a controller for the pod, or delete the pod."
    /// An eviction would lose the contents of an `emptyDir` volume.
    EmptyDir [] "Save the contents, and declare `removal: {emptyDir: discard}`."

    // Deliveries.

    /// The registry does not give the digest of an image of Flux.
    ImageUnknown [100, 111] "Check `endpoints.flux` of the Project, or give the digest in `flux.digests`."
    /// The artifact cannot be read, so its effect on claims is unknown.
    ArtifactUnreadable [100, 111] "Check `endpoints.registry` of the Project, or publish the artifact again."
    /// Flux does not accept the signature of the artifact. The last delivered artifact keeps running.
    SignatureInvalid [100] "Publish the artifact with the project's own key: `artifact-attest apply`."
    /// An object cannot become ready: its controller has given up, or a second attempt has failed in the same way.
    Stalled [100] "`observed.causes` of the status names each object and its failure; `knowledge/failures.md` has the next action."
    /// The artifact holds objects of Flux's own installation.
    DeliversItself [100] "Remove these objects from the manifests."

    // Data and receipts.

    /// No receipt proves that data is copied in its present state, and the operation would delete it.
    NotDrained [100, 111] "Run `data-drain apply`, or discard the data in `dataOnDestroy`."
    /// The repository has contents that no receipt covers, for example issues.
    NotCovered [100] "Export the contents, or declare `onDestroy: archive` or `dataOnDestroy: discard`."
    /// A receipt does not prove that data was copied.
    ReceiptInvalid [100] "Run `data-drain apply` again, which signs a new receipt."
    /// The cluster does not report its volumes, so nothing is deleted.
    FactsUnknown [] "Make the API of the cluster answer; the firewall may block it."
    /// No receipt names the claim.
    NoReceipt [] "Copy the claim with a Drain, or discard it by name in `dataOnDestroy`."
    /// The volume has no claim, so a drain cannot read it.
    Unclaimed [] "Bind a claim to the volume, or discard it by name in `dataOnDestroy`."
    /// The receipt, or the delivered object, is of another cluster.
    OtherCluster [] "Copy the claim of this cluster; remove an object of another cluster with that cluster's tools."
    /// The receipt is for an earlier claim with the same name.
    OtherClaim [] "Copy the claim with a Drain, or discard it by name in `dataOnDestroy`."
    /// The receipt is for another volume of the same claim.
    OtherVolume [] "Copy the claim with a Drain, or discard it by name in `dataOnDestroy`."
    /// The receipt was signed without a hold on the claim.
    NotHeld [] "Run `data-drain apply` again."
    /// The hold on the claim was removed or changed after the receipt was signed.
    HoldBroken [] "Run `data-drain apply` again."
    /// A pod has mounted the claim since the receipt was signed.
    InUse [] "End the pod, then run `data-drain apply` again."
    /// The stopped workload was changed after the receipt was signed.
    WorkloadChanged [] "Run `data-drain apply` again."
    /// Claims cannot be drained in their present state.
    NotDrainable [100] "Resolve each entry of `status.refusals` as its message says."
    /// The API server does not enforce the hold. Nothing was copied.
    HoldInactive [111] "Check that the API servers are healthy, then run `data-drain apply` again."
    /// The pod that reads a volume does not start.
    NoReader [111] "Correct the cause in the message, then run the same command again."
    /// A source could not be read completely.
    ReadFailed [111] "Run the same command again: packs that have arrived are not sent again."

    // The lab.

    /// No folder above the current one is a repository with the components of the lab.
    NoRepository [100] "Run the command inside the repository, or set LAB_COMPONENTS."
    /// Another process uses an address of the lab.
    PortInUse [100] "End the process that the message names."
    /// A service of the lab does not stay up.
    Died [100] "Read the log that the help names."
    /// The lab was made for other addresses than the command names.
    OtherNetwork [100] "Set `LAB_NETWORK` to the lab's addresses, or delete the lab with `lab down --wipe`."
    /// The documents need something that only root may do.
    RootRequired [100] "Run the command as root, or leave out what takes root."
    /// Another user has created the lab.
    OtherUser [100] "Run the command as that user, or set LAB_DIR to another folder."
    /// A lab already runs in the folder.
    AlreadyRunning [100] "Run `lab status` to see it."
    /// The user that must run the forge cannot be created.
    NoForgeUser [100] "Create the user, or run the lab as a user other than root."
    /// The state file of the lab is invalid.
    InvalidState [100] "Remove the file, then run the same command again."
    /// A folder of the lab is still mounted.
    Mounted [100] "Unmount the folder as the help says."
}
