"""The one security context of every pod and container that Airsmith makes: Kubernetes' restricted standard.

https://kubernetes.io/docs/concepts/security/pod-security-standards
"""

from __future__ import annotations

from kubernetes.client import models as k8s

USER_ID = 10001
"""The user and group that images run as, and that owns a pod's volumes."""


def pod_security() -> k8s.V1PodSecurityContext:
    """A pod's security context: an unprivileged user, who owns the pod's volumes."""
    return k8s.V1PodSecurityContext(
        run_as_non_root=True,
        run_as_user=USER_ID,
        run_as_group=USER_ID,
        fs_group=USER_ID,
        seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
    )


def container_security() -> k8s.V1SecurityContext:
    """A container's security context: no privileges, and a read-only root file system."""
    return k8s.V1SecurityContext(
        allow_privilege_escalation=False,
        read_only_root_filesystem=True,
        capabilities=k8s.V1Capabilities(drop=["ALL"]),
    )
