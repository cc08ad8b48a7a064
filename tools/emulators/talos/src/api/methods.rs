//! The methods of all services, with the role that each needs.

use talos_api::cluster::cluster_service_server::ClusterService;
use talos_api::cluster::{HealthCheckProgress, HealthCheckRequest};
use talos_api::common::Data;
use talos_api::cosi::resource::state_server::State;
use talos_api::cosi::resource::{
    GetRequest, GetResponse, ListRequest as ListResourcesRequest, ListResponse,
};
use talos_api::machine::machine_service_server::MachineService;
use talos_api::machine::{
    ApplyConfigurationRequest, ApplyConfigurationResponse, Bootstrap, BootstrapRequest,
    BootstrapResponse, EtcdAlarm, EtcdAlarmListResponse, EtcdForfeitLeadership,
    EtcdForfeitLeadershipRequest, EtcdForfeitLeadershipResponse, EtcdLeaveCluster,
    EtcdLeaveClusterRequest, EtcdLeaveClusterResponse, EtcdMemberListRequest,
    EtcdMemberListResponse, EtcdRemoveMemberById, EtcdRemoveMemberByIdRequest,
    EtcdRemoveMemberByIdResponse, EtcdStatusResponse, Event, EventsRequest, FileInfo,
    HostnameResponse, ListRequest, ReadRequest, Reboot, RebootRequest, RebootResponse, Reset,
    ResetRequest, ResetResponse, ServiceListResponse, Shutdown, ShutdownRequest, ShutdownResponse,
    VersionResponse,
};
use tonic::{Request, Response, Status};

use super::client::{Client, Role};
use super::{Answers, apply, cluster, etcd, lifecycle, service, state};

type Answer<A> = Result<Response<A>, Status>;

#[tonic::async_trait]
impl MachineService for Client {
    type EventsStream = Answers<Event>;
    type KubeconfigStream = Answers<Data>;
    type ListStream = Answers<FileInfo>;
    type ReadStream = Answers<Data>;

    async fn version(&self, _: Request<()>) -> Answer<VersionResponse> {
        let messages = vec![service::version(self.machine(Role::Reader)?)];
        Ok(Response::new(VersionResponse { messages }))
    }

    async fn hostname(&self, _: Request<()>) -> Answer<HostnameResponse> {
        let messages = vec![service::hostname(self.machine(Role::Reader)?)];
        Ok(Response::new(HostnameResponse { messages }))
    }

    async fn service_list(&self, _: Request<()>) -> Answer<ServiceListResponse> {
        let messages = vec![service::services(self.machine(Role::Reader)?)];
        Ok(Response::new(ServiceListResponse { messages }))
    }

    async fn events(&self, request: Request<EventsRequest>) -> Answer<Self::EventsStream> {
        let machine = self.machine(Role::Reader)?;
        service::events(machine, request.into_inner()).map(Response::new)
    }

    async fn read(&self, request: Request<ReadRequest>) -> Answer<Self::ReadStream> {
        service::read(self.machine(Role::Admin)?, request.get_ref()).map(Response::new)
    }

    async fn list(&self, request: Request<ListRequest>) -> Answer<Self::ListStream> {
        service::list(self.machine(Role::Reader)?, request.get_ref()).map(Response::new)
    }

    async fn apply_configuration(
        &self,
        request: Request<ApplyConfigurationRequest>,
    ) -> Answer<ApplyConfigurationResponse> {
        let machine = self.machine_to_configure()?;
        let messages = vec![apply::apply(machine, self.access(), request.get_ref())?];
        Ok(Response::new(ApplyConfigurationResponse { messages }))
    }

    async fn reboot(&self, _: Request<RebootRequest>) -> Answer<RebootResponse> {
        let actor_id = lifecycle::reboot(self.machine(Role::Operator)?)?;
        Ok(Response::new(RebootResponse { messages: vec![Reboot { actor_id }] }))
    }

    async fn shutdown(&self, _: Request<ShutdownRequest>) -> Answer<ShutdownResponse> {
        let actor_id = lifecycle::shutdown(self.machine(Role::Operator)?)?;
        Ok(Response::new(ShutdownResponse { messages: vec![Shutdown { actor_id }] }))
    }

    async fn reset(&self, request: Request<ResetRequest>) -> Answer<ResetResponse> {
        let actor_id = lifecycle::reset(self.machine(Role::Admin)?, request.get_ref())?;
        Ok(Response::new(ResetResponse { messages: vec![Reset { actor_id }] }))
    }

    async fn bootstrap(&self, _: Request<BootstrapRequest>) -> Answer<BootstrapResponse> {
        service::bootstrap(self.machine(Role::Admin)?)?;
        Ok(Response::new(BootstrapResponse { messages: vec![Bootstrap {}] }))
    }

    async fn kubeconfig(&self, _: Request<()>) -> Answer<Self::KubeconfigStream> {
        service::kubeconfig(self.machine(Role::Admin)?).map(Response::new)
    }

    async fn etcd_member_list(
        &self,
        request: Request<EtcdMemberListRequest>,
    ) -> Answer<EtcdMemberListResponse> {
        let machine = self.machine(Role::Reader)?;
        let messages = vec![etcd::members(machine, request.get_ref()).await?];
        Ok(Response::new(EtcdMemberListResponse { messages }))
    }

    async fn etcd_status(&self, _: Request<()>) -> Answer<EtcdStatusResponse> {
        let messages = vec![etcd::status(self.machine(Role::Reader)?).await?];
        Ok(Response::new(EtcdStatusResponse { messages }))
    }

    async fn etcd_alarm_list(&self, _: Request<()>) -> Answer<EtcdAlarmListResponse> {
        etcd::alarms(self.machine(Role::Reader)?)?;
        Ok(Response::new(EtcdAlarmListResponse { messages: vec![EtcdAlarm {}] }))
    }

    async fn etcd_forfeit_leadership(
        &self,
        _: Request<EtcdForfeitLeadershipRequest>,
    ) -> Answer<EtcdForfeitLeadershipResponse> {
        etcd::forfeit_leadership(self.machine(Role::Admin)?).await?;
        let messages = vec![EtcdForfeitLeadership {}];
        Ok(Response::new(EtcdForfeitLeadershipResponse { messages }))
    }

    async fn etcd_leave_cluster(
        &self,
        _: Request<EtcdLeaveClusterRequest>,
    ) -> Answer<EtcdLeaveClusterResponse> {
        etcd::leave(self.machine(Role::Admin)?).await?;
        Ok(Response::new(EtcdLeaveClusterResponse { messages: vec![EtcdLeaveCluster {}] }))
    }

    async fn etcd_remove_member_by_id(
        &self,
        request: Request<EtcdRemoveMemberByIdRequest>,
    ) -> Answer<EtcdRemoveMemberByIdResponse> {
        etcd::remove(self.machine(Role::Admin)?, request.get_ref().member_id).await?;
        let messages = vec![EtcdRemoveMemberById {}];
        Ok(Response::new(EtcdRemoveMemberByIdResponse { messages }))
    }
}

#[tonic::async_trait]
impl ClusterService for Client {
    type HealthCheckStream = Answers<HealthCheckProgress>;

    async fn health_check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Answer<Self::HealthCheckStream> {
        cluster::health(self.machine(Role::Reader)?, request.get_ref()).map(Response::new)
    }
}

#[tonic::async_trait]
impl State for Client {
    type ListStream = Answers<ListResponse>;

    async fn get(&self, request: Request<GetRequest>) -> Answer<GetResponse> {
        state::get(self, request.into_inner()).map(Response::new)
    }

    async fn list(&self, request: Request<ListResourcesRequest>) -> Answer<Self::ListStream> {
        state::list(self, request.get_ref()).map(Response::new)
    }
}
